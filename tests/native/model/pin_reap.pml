/*
 * The life of one object among processes that may be killed at any moment: put, pin, unpin, delete,
 * reap, recovery of the dead, fork. What the code's functions do to shared memory is here step by step;
 * each inline has the name of the function that it models.
 *
 * Modelled. N processes, each of which may be killed between any two of its steps, CR kills in all; a
 * new process may start in a dead one's place. R rows with a kernel lock each. S slots, whose last
 * generation is LAST. Every process does up to K operations, over all its lives: put (or its abort),
 * pin with a ref of any generation so far, unpin, delete, recover a dead row, close. With FORK, the last
 * process is none until another one forks. With HOLD, an allocator may also take a slot and give it
 * back. With WRITER, a put stays open over other operations, forks among them. With ONE_BIT, all rows
 * share one bit of the masks. With EVICT, a process may also offer an object and take its block, if nobody
 * rescues it; with THREADS, two of them are threads of one process that do. A step is one access to shared memory; a process may be delayed before
 * any step for as long as anything lasts, so a stopped process is among what is tried.
 *
 * Left out. Which free row lock_row() prefers: here it takes any. Counts above 1 in a cell; threads.
 * Where space comes from. Names: publish.pml. The locks: lock.pml. The moments after a fork in which
 * two processes hold one row's kernel lock. `live_words`. Weak memory: all is sequentially consistent,
 * but for M_TSO.
 *
 * Checked. No block is given back or given out while a live process may read it. No word changes under
 * its exclusive owner. When all is quiet, and one process has recovered the dead rows that are marked
 * live, as recover_dead() does: no slot is WRITING, HELD, CONDEMNED or RECLAIMING, no pin is left, each
 * FREE slot has its hint, and no row is marked live.
 *
 * Each M_ breaks one rule, and the checks must see it. Not among them, since they break nothing: a mask
 * that is never emptied (scans are longer), the mark set before the pin (a ref is known only when its
 * generation is there), the mask marked after the cells in copy_pins() (it is `moves` that counts).
 */
#ifndef N
#define N 2
#endif
#ifndef R
#define R N
#endif
#ifndef S
#define S 1
#endif
#ifndef LAST
#define LAST 1
#endif
#ifndef K
#define K 2
#endif
#ifndef CR
#define CR 1
#endif

/* To keep forks small: process 0 alone forks and holds over it, process 1 deletes and puts
 * what comes after; both are attached at the beginning, and nobody comes back. */
#ifdef FORK
#define OPS (c == 0 -> 3 : (c == 1 -> K : 1))
#define MAY_FORK (c == 0)
#define MAY_PIN (c == 0)
#define MAY_DELETE (c != 0)
#ifdef WRITER
#define MAY_PUT (c != 2)
#else
#define MAY_PUT (c == 1)
#endif
#define MAY_COME_BACK false
#define MAY_EVICT (c == 1)
#elif defined(THREADS)
/* processes 0 and 1 are threads of one, with its row, and evict; the other reads */
#define OPS (c == 2 -> 3 : K)
#define MAY_PIN (c == 2)
#define MAY_DELETE false
#define MAY_PUT false
#define MAY_COME_BACK false
#define MAY_EVICT (c != 2)
#else
#define OPS K
#define MAY_EVICT true
#define MAY_PIN true
#define MAY_DELETE true
#define MAY_PUT true
#define MAY_COME_BACK true
#endif

#define FREE 0
#define WRITING 1
#define OFFERED 2
#define SEALED 3
#define CONDEMNED 4
#define RECLAIMING 5
#define HELD 6
#define RETIRED 7

/* slots.pxd: make_word, word_state, word_row, word_generation */
#define WORD(gen_, st_, row_) ((st_) | (row_) << 3 | (gen_) << 5)
#define ST(w_)  ((w_) & 7)
#define ROW(w_) ((w_) >> 3 & 3)
#define GEN(w_) ((w_) >> 5)

#define BIT(r_) (1 << (r_))
#ifdef ONE_BIT
#define MARK(r_) 1
#define MARKED(m_) ((m_) * 255)
#else
#define MARK(r_) BIT(r_)
#define MARKED(m_) (m_)
#endif

#ifdef EVICT
#define DELETABLE (word[s] == WORD(g, SEALED, 0) || (GEN(word[s]) == g && ST(word[s]) == OFFERED))
#else
#define DELETABLE (word[s] == WORD(g, SEALED, 0))
#endif

byte word[S]; byte mask[S]; bit hint[S]; byte cell[R * S];
bit state[R]; byte live; byte moves;
byte lk[R];                     /* the kernel's: process + 1 that has the row's byte locked */
byte holds[N * S];              /* what is true: generation + 1 that the process believes it may read */
bit runs[N]; bit dead[N]; byte deaths; byte done; bit forked; byte child_row;
#ifdef EVICT
byte gone;                      /* generations that somebody has deleted, one bit each */
byte gil;                       /* process + 1: a thread of the process whose threads evict */
#endif
#ifdef M_TSO
byte buffered[N];               /* a plain store to the own cell is still in the store buffer */
#endif

/* a block goes to somebody else: nobody alive may still read it */
#if N == 2
#define NOBODY(s_) (holds[s_] == 0 && holds[S + s_] == 0)
#else
#define NOBODY(s_) (holds[s_] == 0 && holds[S + s_] == 0 && holds[2 * S + s_] == 0)
#endif

#include "slots.pml"

/* recovery.pxd: leave */
inline leave() {
	do
	:: s < S ->
		if
		:: holds[c * S + s] != 0 -> unpin()
		:: else
		fi;
		d_step { s++; w = 0; got = 0 }
	:: else -> s = 0; break
	od;
	zero_pins(me);
	free_row(me);
	lk[me] = 0
}

#ifdef FORK
/* fork.pxd: pin_open_writers */
inline pin_open_writers() {
#ifdef WRITER
	if
	:: mine ->
		mask[mine - 1] = mask[mine - 1] | MARK(t);
		cell[t * S + mine - 1]++
	:: else
	fi
#else
	skip
#endif
}

/* process_table.pxd: copy_pins */
inline copy_pins() {
	do
	:: s < S ->
		if
		:: cell[me * S + s] ->
#ifndef M_FORK_NO_MARK          /* the child's mark is missing in the mask */
			mask[s] = mask[s] | MARK(t);
#endif
			cell[t * S + s] = cell[t * S + s] + cell[me * S + s]
		:: else
		fi;
		s++
	:: else -> s = 0; break
	od
}

/* fork.pxd: prepare_child, end_fork_in_parent, end_fork_in_child, end_fork_of_writers */
inline fork() {
	lock_row(t);
	if
	:: state[t] -> recover_locked(t)
	:: else
	fi;
#ifndef M_FORK_NOT_LIVE         /* the child's row is not marked live */
	join_row(t);
#endif
#ifdef M_MOVES_FIRST            /* `moves` counts forks that are still to come */
	moves++;
#endif
#ifndef M_NO_COPY               /* H21: the child goes by what its parent pins */
	pin_open_writers();
	copy_pins();
#ifndef M_MOVES_FIRST
	moves++;
#endif
#endif
	skip;
	d_step {
		lk[t] = N; child_row = t + 1; runs[N - 1] = 1;
		s = 0;
		do
		:: s < S ->
			holds[(N - 1) * S + s] = holds[c * S + s];
			if
			:: mine == s + 1 -> holds[(N - 1) * S + s] = GEN(w) + 1; shared = 1
			:: else
			fi;
			s++
		:: else -> s = 0; break
		od;
		t = 0
	}
}
#endif

inline forget() {
	d_step { s = 0; g = 0; w = 0; k = 0; t = 0; rows = 0; moved = 0; before = 0; got = 0; ok = 0; pinned = 0; there = 0 }
}

proctype Process(byte c) {
	byte me, s, g, w, k, t, rows, moved, before, n, mine, pinned, there;
	bit got, ok, shared;
#ifdef FORK
	if
	:: c == N - 1 ->
end:		d_step { child_row != 0 -> me = child_row - 1 }
		goto lives
	:: else -> me = c; goto lives
	fi;
#endif
#ifdef THREADS
	me = (c == 2 -> 2 : 0);
	goto lives;
#endif
again:
	{
		lock_row(me);
		enter();
lives:
		do
		:: n < OPS ->
			atomic {        /* which slot, and which ref */
				n++;
				if
				:: s = 0
#if S > 1
				:: s = 1
#endif
				fi;
				if
				:: g = 0
				:: GEN(word[s]) > 0 -> g = 1
#if LAST > 1
				:: GEN(word[s]) > 1 -> g = 2
#endif
				fi;
				if
				:: mine && s == mine - 1 -> g = 0; w = word[s]
				:: else
				fi
			}
			if
			:: mine && s == mine - 1 -> mine = 0; publish_object()
			:: MAY_PIN && holds[c * S + s] == 0 && mine != s + 1 -> pin()
			:: holds[c * S + s] != 0 -> unpin()
			:: MAY_DELETE && mine != s + 1 && DELETABLE -> remove()
			:: MAY_PUT && mine == 0 && ST(word[s]) == FREE -> put()
#ifdef EVICT
			:: MAY_EVICT && ST(word[s]) == SEALED -> evict()
#endif
			:: atomic {
				if
				:: (live & 1) && lk[0] == 0 -> t = 0
				:: (live & 2) && lk[1] == 0 -> t = 1
#if R > 2
				:: (live & 4) && lk[2] == 0 -> t = 2
#endif
				fi }
			   recover_row(t)
#ifdef FORK
			:: d_step { MAY_FORK && !forked && (mine == 0 || mine == s + 1) -> forked = 1 }
			   fork()
#endif
			:: atomic { else -> skip }
			fi;
#ifdef M_LIVE_LATE
			live = live | BIT(me);
#endif
			forget()
		:: true ->
#ifdef WRITER
			if
			:: mine -> d_step { s = mine - 1; mine = 0; w = word[s] } publish_object(); forget()
			:: else
			fi;
#endif
#ifdef THREADS
			if :: c == 2 -> leave() :: else fi;
#else
			leave();
#endif
			break
		od;
		skip;
		d_step { runs[c] = 0; done++; me = 0; n = 0; forget() }
	} unless {
		atomic {
			dead[c] -> dead[c] = 0; me = 0; mine = 0; shared = 0; forget();
			if
			:: MAY_COME_BACK -> goto again      /* a new process takes its place */
			:: runs[c] = 0; done++; n = 0
			fi
		}
	}
}

/* SIGKILL: the kernel drops the row locks, and what the process believed goes with it */
inline kill(c) {
	atomic {
		runs[c] && !dead[c] && deaths < CR -> deaths++; dead[c] = 1; x = 0;
		do
		:: x < R -> if :: lk[x] == c + 1 -> lk[x] = 0 :: else fi; x++
		:: else -> break
		od;
		x = 0;
		do
		:: x < S -> holds[c * S + x] = 0; x++
		:: else -> break
		od;
		x = 0
#ifdef M_TSO
		; buffered[c] = 0
#endif
	}
}

proctype Killer() {
	byte x;
end:	do
	:: kill(0)
	:: kill(1)
#if N > 2
	:: kill(2)
#endif
	od
}

#ifdef M_TSO
proctype StoreBuffers() {
end:	do
	:: d_step { buffered[0] != 0 -> cell[buffered[0] - 1]++; buffered[0] = 0 }
	:: d_step { buffered[1] != 0 -> cell[buffered[1] - 1]++; buffered[1] = 0 }
	od
}
#endif

/* recovery.pxd: recover_dead -- when all is quiet; then nothing may be left over */
proctype Last() {
	byte c, me, s, g, w, k, t, rows, moved, before, pinned;
	bit got, ok;
#ifdef FORK
	atomic { done == N || (done == N - 1 && child_row == 0) -> c = N }
#else
	atomic { done == N -> c = N }
#endif
#ifdef THREADS
	lk[0] = 0;
#endif
	do
	:: t < R ->
		if
		:: live & BIT(t) -> me = t; recover_row(t)
		:: else
		fi;
		t++
	:: else -> break
	od;
	skip;
	d_step {
		assert(live == 0);
		do
		:: s < S ->
			assert(ST(word[s]) == FREE || ST(word[s]) == SEALED || ST(word[s]) == RETIRED);
			assert(ST(word[s]) != FREE || hint[s]);
			t = 0;
			do
			:: t < R -> assert(cell[t * S + s] == 0); t++
			:: else -> break
			od;
			s++
		:: else -> break
		od;
		s = 0
	}
}

init {
	byte i;
	atomic {
		do
#if (defined(FORK) && !defined(WRITER)) || defined(THREADS)
		:: i < S -> word[i] = WORD(0, SEALED, 0); i++
#else
		:: i < S -> hint[i] = 1; i++
#endif
		:: else -> break
		od;
		i = 0;
		do
		:: i < N ->
#ifdef FORK
			runs[i] = (i < N - 1); lk[i] = (i < N - 1 -> i + 1 : 0); state[i] = (i < N - 1); live = 3;
#elif defined(THREADS)
			runs[i] = 1; state[0] = 1; lk[0] = 1; state[2] = 1; lk[2] = 3; live = 5;
#else
			runs[i] = 1;
#endif
			run Process(i); i++
		:: else -> break
		od;
		run Killer();
#ifdef M_TSO
		run StoreBuffers();
#endif
		run Last()
	}
}
