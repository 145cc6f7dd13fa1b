/*
 * One name among processes that may be killed at any moment: publish, replace, remove, get, recovery.
 *
 * Modelled. N processes, S slots, an index of CELLS cells in which any cell may hold the name, the
 * name's lock. Each process does up to K operations, over all its lives: put under the name, remove by
 * ref, get by name, recover a dead row. CR kills, between any two steps, also of who recovers; a new
 * process may take a dead one's place, through its row. A word is (generation, state, row).
 *
 * Left out. Pins, and the steps of a reap (pin_reap.pml): a CONDEMNED slot goes to FREE in one step,
 * which any of those who reap it may take, and nothing holds it back, so a slot is used again sooner
 * than it could be. How the lock is waited for (lock.pml). Other names, and with them full buckets:
 * index() always finds a cell. The label.
 *
 * Checked. Never do two cells lead to a living object. With NO_REMOVE: once the name leads to an object
 * it does so at every instant, whoever dies, and a get that began after that finds one. When all is
 * quiet, and each dead row was recovered once: each slot is FREE, or SEALED and the name leads to it.
 */
#ifndef N
#define N 2
#endif
#ifndef S
#define S 3
#endif
#ifndef K
#define K 2
#endif
#ifndef CR
#define CR 1
#endif
#ifndef LAST
#define LAST 3          /* generation at which a slot is used no more */
#endif
#define CELLS 2

#include "names.pml"

/* slots.pxd: claim; publication.pxd: publish; the unpin at its end reaps what was replaced */
inline publish() {
	s = 0;
	do
	:: s < S ->
		if
		:: d_step { ST(word[s]) == FREE && GEN(word[s]) < LAST ->
			g = GEN(word[s]); word[s] = WORD(g, WRITING, me) }
			break
		:: else -> s++
		fi
	:: else -> break
	od;
	if
	:: s < S ->
#ifndef M_NO_LOCK               /* H29: two publishers, two cells, two objects of one name */
		lock();
#endif
		find();
		publish_locked();
		atomic { assert(indexed); indexed = 0 }
#ifndef M_NO_LOCK
		unlock();
#endif
		if
		:: e -> reap_condemned(SLOT(e))
		:: else
		fi
	:: else
	fi
}

/* names.pxd: find -- by a reader */
inline get() {
	d_step { there = OBJECT(0) || OBJECT(1) }
	find();
#ifdef NO_REMOVE
	atomic { assert(!there || e != 0); there = 0 }
#endif
}

inline forget() {
	d_step { s = 0; g = 0; e = 0; k = 0; r = 0; w = 0; t = 0; ok = 0; indexed = 0; moved = 0; seen = 0; my_s = 0; my_g = 0; there = 0 }
}

#define MAY_REMOVE(s_) (ST(word[s_]) == SEALED || ST(word[s_]) == PUBLISHING)

proctype Process(byte c) {
	byte me, s, g, e, k, r, w, t, n, seen, my_s, my_g;
	bit ok, indexed, moved, there;
again:
	{
		/* recovery.pxd: enter; process_table.pxd: lock_row, join_row */
		atomic { lk[c] == 0 -> me = c; lk[me] = c + 1 }
		if
		:: state[me] -> recover_locked(me)
		:: else
		fi;
		state[me] = 1;
		do
		:: n < K ->
			n++;
			if
			:: publish()
#ifdef NO_REMOVE
			:: cells[0] || cells[1] -> get()
#else
			:: MAY_REMOVE(0) -> remove()
			:: d_step { MAY_REMOVE(1) -> s = 1 } remove()
#if S > 2
			:: d_step { MAY_REMOVE(2) -> s = 2 } remove()
#endif
#endif
			:: d_step { state[1 - c] && lk[1 - c] == 0 -> t = 1 - c }
				recover_row(t)
			fi;
			forget()
		:: true ->
			state[me] = 0;
			lk[me] = 0;
			break
		od;
		skip;
		d_step { runs[c] = 0; done++; n = 0; me = 0 }
	} unless {
		atomic {
			dead[c] -> dead[c] = 0; me = 0; forget();
			if
			:: goto again   /* a new process takes its place */
			:: runs[c] = 0; done++; n = 0
			fi
		}
	}
}

proctype Killer() {
end:	do
	:: kill(0)
	:: kill(1)
	od
}

proctype Monitor() {
#ifdef NO_REMOVE
end0:	OBJECT(0) || OBJECT(1);
end:	atomic { (OBJECT(0) && OBJECT(1)) || !(OBJECT(0) || OBJECT(1)) -> assert(false) }
#else
end:	atomic { OBJECT(0) && OBJECT(1) -> assert(false) }
#endif
}

/* recovery.pxd: recover_dead -- when all is quiet; then nothing may be left over */
proctype Last() {
	byte c, me, s, g, e, k, r, w, t, seen, my_s, my_g;
	bit ok, indexed, moved;
	atomic { done == N -> c = N }
	do
	:: t < N ->
		if
		:: state[t] -> me = t; recover_row(t)
		:: else
		fi;
		t++
	:: else -> break
	od;
	skip;
	d_step {
		assert(name_lock == 0);
		do
		:: s < S ->
			assert(ST(word[s]) == FREE || (ST(word[s]) == SEALED &&
			       (cells[0] == CELL(s, GEN(word[s])) || cells[1] == CELL(s, GEN(word[s])))));
			s++
		:: else -> break
		od;
		s = 0
	}
}

init {
	atomic {
		runs[0] = 1; runs[1] = 1;
		run Process(0); run Process(1); run Killer(); run Monitor(); run Last()
	}
}
