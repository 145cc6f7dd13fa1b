/* The words of these programs, for two checkers: GenMC, which reads C, and relacy, which is C++ headers. */
#define NAME_(prefix, order) prefix##order
#define NAME(prefix, order) NAME_(prefix, order)

#ifdef RELACY
#include <relacy/relacy.hpp>

#define ORDER(order) rl::NAME(mo_, order), $
#define WORD(x) rl::atomic<int> x
#define DATA(x) rl::var<int> x
#define MUTEX(x) rl::mutex x
#define LOAD(x, order) (x).load(ORDER(order))
#define STORE(x, v, order) (x).store(v, ORDER(order))
#define ADD(x, v, order) (x).fetch_add(v, ORDER(order))
#define OR(x, v, order) (x).fetch_or(v, ORDER(order))
#define CAS(x, expected, v, order, failed) \
	(x).compare_exchange_strong(*(expected), v, ORDER(order), ORDER(failed))
#define READ(x) (x)($)
#define WRITE(x, v) ((x)($) = (v))
#define LOCK(x) (x).lock($)
#define UNLOCK(x) (x).unlock($)
#define CHECK(what) RL_ASSERT(what)
#define PROGRAM(name, n) struct name : rl::test_suite<name, n> {
#define END(name) \
	void thread(unsigned i) { run((int)i); } }; \
	int main() { \
		rl::test_params p; \
		p.search_type = rl::sched_full; p.execution_depth_limit = 4000; \
		bool good = rl::simulate<name>(p); \
		std::printf("%s: %llu executions\n", good ? "holds" : "refuted", (unsigned long long)p.stop_iteration); \
		return !good; }

#else
#include <pthread.h>
#include <stdatomic.h>
#include <assert.h>

#define ORDER(order) NAME(memory_order_, order)
#define WORD(x) static atomic_int x
#define DATA(x) static int x
#define MUTEX(x) static pthread_mutex_t x = PTHREAD_MUTEX_INITIALIZER
#define LOAD(x, order) atomic_load_explicit(&(x), ORDER(order))
#define STORE(x, v, order) atomic_store_explicit(&(x), v, ORDER(order))
#define ADD(x, v, order) atomic_fetch_add_explicit(&(x), v, ORDER(order))
#define OR(x, v, order) atomic_fetch_or_explicit(&(x), v, ORDER(order))
#define CAS(x, expected, v, order, failed) \
	atomic_compare_exchange_strong_explicit(&(x), expected, v, ORDER(order), ORDER(failed))
#define READ(x) (x)
#define WRITE(x, v) ((x) = (v))
#define LOCK(x) pthread_mutex_lock(&(x))
#define UNLOCK(x) pthread_mutex_unlock(&(x))
#define CHECK(what) assert(what)
#define PROGRAM(name, n) enum { THREADS = n };
#define END(name) \
	static void *thread(void *i) { run((int)(long)i); return 0; } \
	int main(void) { \
		pthread_t threads[THREADS]; \
		before(); \
		for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, thread, (void *)i); \
		for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0); \
		after(); \
		return 0; }
#endif
