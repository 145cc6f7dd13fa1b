/*
 * Eviction by offers, as slots.pxd has it: READERS that each pin PINS times, one that offers the object up to
 * ROUNDS times and puts its block to another use; with DELETER, one that deletes. The block is a plain
 * variable: a reader that is let in while it is put to use is a race of data, or a failed check.
 */
#include "weak.h"
#ifndef READERS
#define READERS 1
#endif
#ifndef PINS
#define PINS 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define SEALED 1
#define OFFERED 2
#define CONDEMNED 3
#define RECLAIMING 4
#define FREE 5
#ifndef PIN
#define PIN seq_cst             /* add to the own cell */
#endif
#ifndef UNPIN
#define UNPIN seq_cst
#endif
#ifndef PIN_LOAD
#define PIN_LOAD seq_cst        /* of the word, after that */
#endif
#ifndef MARK
#define MARK seq_cst            /* of the row, in the mask */
#endif
#ifndef RESCUE
#define RESCUE seq_cst
#endif
#ifndef OFFER
#define OFFER seq_cst
#endif
#ifndef SCAN
#define SCAN seq_cst            /* loads of mask and cells */
#endif
#ifndef TAKE
#define TAKE seq_cst
#endif
#ifndef CONDEMN
#define CONDEMN seq_cst
#endif

#ifdef DELETER
PROGRAM(Eviction, READERS + 2)
#else
PROGRAM(Eviction, READERS + 1)
#endif
WORD(word); WORD(mask); WORD(cells[READERS]);
DATA(block);

void before(void)
{
	STORE(word, SEALED, relaxed);
	STORE(mask, 0, relaxed);
	for (int i = 0; i < READERS; i++)
		STORE(cells[i], 0, relaxed);
	WRITE(block, 1);
}

int is_pinned(void)
{
	int rows = LOAD(mask, SCAN);
	for (int i = 0; i < READERS; i++)
		if (rows >> i & 1 && LOAD(cells[i], SCAN))
			return 1;
	return 0;
}

void reuse(void)
{
	WRITE(block, 2);
	STORE(word, FREE, release);
}

void try_reap(void)
{
	int seen = CONDEMNED;
	if (!is_pinned() && CAS(word, &seen, RECLAIMING, TAKE, seq_cst))
		reuse();
}

int pin_offered(int me)
{
	int seen = LOAD(word, PIN_LOAD);
	for (int i = 0; i <= 2 * ROUNDS && (seen == SEALED || seen == OFFERED); i++) {
#ifndef RESCUE_UNMARKED
		OR(mask, 1 << me, MARK);
#endif
		if (seen != OFFERED) {
			seen = LOAD(word, PIN_LOAD);
			if (seen == SEALED)
				return 1;
		} else if (CAS(word, &seen, SEALED, RESCUE, seq_cst)) {
			return 1;
		}
	}
	return 0;
}

int pin(int me)
{
	ADD(cells[me], 1, PIN);
	if (LOAD(word, PIN_LOAD) == SEALED) {
		if (!(LOAD(mask, acquire) >> me & 1))
			OR(mask, 1 << me, MARK);
		if (LOAD(word, PIN_LOAD) == SEALED)
			return 1;
	}
#ifdef NO_RESCUE
	if (LOAD(word, PIN_LOAD) == OFFERED)
		return 1;
#endif
	return pin_offered(me);
}

void read(int me)
{
	for (int k = 0; k < PINS; k++) {
		if (pin(me))
			CHECK(READ(block) == 1);
		ADD(cells[me], -1, UNPIN);
		if (LOAD(word, seq_cst) == CONDEMNED)
			try_reap();
	}
}

void evict(void)
{
	for (int k = 0; k < ROUNDS; k++) {
		int seen = SEALED;
#ifdef OFFER_LATE
		if (is_pinned() || !CAS(word, &seen, OFFERED, OFFER, seq_cst))
			continue;
#else
		if (!CAS(word, &seen, OFFERED, OFFER, seq_cst))
			continue;
		seen = OFFERED;
		if (is_pinned()) {
			CAS(word, &seen, SEALED, seq_cst, seq_cst);
			continue;
		}
#endif
		seen = OFFERED;
#ifdef EVICT_STORE
		STORE(word, RECLAIMING, seq_cst);
#else
		if (!CAS(word, &seen, RECLAIMING, TAKE, seq_cst))
			continue;
#endif
		reuse();
		return;
	}
}

void condemn(void)
{
	int seen = LOAD(word, seq_cst);
	for (int k = 0; k < 4 && (seen == SEALED || seen == OFFERED); k++)
		if (CAS(word, &seen, CONDEMNED, CONDEMN, seq_cst)) {
			try_reap();
			return;
		}
}

void run(int i)
{
	if (i < READERS)
		read(i);
	else if (i == READERS)
		evict();
	else
		condemn();
}

void after(void)
{
#ifdef DELETER
	CHECK(LOAD(word, seq_cst) == FREE);
#endif
}
END(Eviction)
