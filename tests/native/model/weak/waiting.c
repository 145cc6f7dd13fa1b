/*
 * Announce and wait, as waiting.pxd has it: WAITERS that sleep until the index leads somewhere, one that
 * publishes. What the kernel does in one step, comparing the word and queueing, is under a mutex here. No
 * sleep ends by itself: one that nobody ends is a failed check. With ONE, the word changes only if
 * somebody may sleep on it, as that for room does, and the one for all names.
 */
#include "weak.h"
#ifndef WAITERS
#define WAITERS 1
#endif
#ifndef INDEX
#define INDEX acq_rel           /* the change that is waited for */
#endif
#ifndef LOOK
#define LOOK acquire            /* the look at it */
#endif
#ifndef CHANGE
#define CHANGE seq_cst          /* of the futex word */
#endif
#ifndef UNTIL_LOAD
#define UNTIL_LOAD seq_cst      /* of the deadline, by who announces */
#endif
#ifndef REGISTER
#define REGISTER seq_cst        /* of the deadline, by who waits */
#endif
#ifndef SEEN
#define SEEN seq_cst            /* of the futex word, by who waits */
#endif

PROGRAM(Waiting, WAITERS + 1)
WORD(index); WORD(changes); WORD(until); MUTEX(kernel);
DATA(asleep[WAITERS]);

void before(void)
{
	STORE(index, 0, relaxed);
	STORE(changes, 0, relaxed);
	STORE(until, 0, relaxed);
	for (int i = 0; i < WAITERS; i++)
		WRITE(asleep[i], 0);
}

void wait_for_it(int me)
{
	int none = 0, seen;
#ifdef READ_LATE
	CAS(until, &none, 1, REGISTER, seq_cst);
	if (LOAD(index, LOOK))
		return;
	seen = LOAD(changes, SEEN);
#else
	CAS(until, &none, 1, REGISTER, seq_cst);
	seen = LOAD(changes, SEEN);
	if (LOAD(index, LOOK))
		return;
#endif
	LOCK(kernel);
	if (LOAD(changes, relaxed) == seen)
		WRITE(asleep[me], 1);
	UNLOCK(kernel);
}

void announce(void)
{
#ifdef ONE
	if (!LOAD(until, UNTIL_LOAD))
		return;
#endif
	ADD(changes, 1, CHANGE);
	if (!LOAD(until, UNTIL_LOAD))
		return;
	LOCK(kernel);
	for (int i = 0; i < WAITERS; i++)
		WRITE(asleep[i], 0);
	UNLOCK(kernel);
}

void publish(void)
{
	int none = 0;
#ifdef ANNOUNCE_FIRST
	announce();
#endif
	CAS(index, &none, 1, INDEX, acquire);
#ifndef ANNOUNCE_FIRST
	announce();
#endif
}

void run(int i)
{
	if (i < WAITERS)
		wait_for_it(i);
	else
		publish();
}

void after(void)
{
	for (int i = 0; i < WAITERS; i++)
		CHECK(!READ(asleep[i]));
}
END(Waiting)
