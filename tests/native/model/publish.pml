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

#define FREE 0
#define WRITING 1
#define PUBLISHING 2
#define SEALED 3
#define CONDEMNED 4

/* layout.pxd: make_word, word_state, word_row, word_generation */
#define WORD(gen_, st_, row_) ((st_) | (row_) << 3 | (gen_) << 5)
#define ST(w_)  ((w_) & 7)
#define ROW(w_) ((w_) >> 3 & 3)
#define GEN(w_) ((w_) >> 5)
/* names.pxd: make_cell, cell_slot; 0 is none */
#define CELL(s_, gen_) (1 + (s_) + ((gen_) << 3))
#define SLOT(e_) (((e_) - 1) & 7)
#define EGEN(e_) ((e_) >> 3)

byte word[S]; byte replaces[S]; byte cells[CELLS]; byte name_lock;
bit state[N];
byte lk[N];                     /* the kernel's: process + 1 that has the row's byte locked */
bit runs[N]; bit dead[N]; byte deaths; byte done;

/* slots.pxd: is_readable; names.pxd: cell_is_live */
#define READABLE(e_) (GEN(word[SLOT(e_)]) == EGEN(e_) && \
                      (ST(word[SLOT(e_)]) == SEALED || ST(word[SLOT(e_)]) == PUBLISHING))
#define LIVE(k_) (cells[k_] != 0 && READABLE(cells[k_]))

/* slots.pxd: reap_condemned */
inline reap_condemned(s_) {
	if
	:: d_step { ST(word[s_]) == CONDEMNED -> word[s_] = WORD(GEN(word[s_]) + 1, FREE, 0) }
	:: else
	fi
}

/* slots.pxd: condemn -- e_ is (slot, generation) as in a cell; ok, busy */
inline condemn(e_) {
	ok = 0;
	if
	:: d_step { word[SLOT(e_)] == WORD(EGEN(e_), SEALED, 0) -> word[SLOT(e_)] = WORD(EGEN(e_), CONDEMNED, 0); ok = 1 }
	:: else
	fi
}

/* recovery.pxd: condemn_replaced */
inline condemn_replaced(s_) {
	if
	:: d_step { replaces[s_] != 0 -> r = replaces[s_] }
		condemn(r);
		reap_condemned(SLOT(r));
		r = 0
	:: else
	fi
}

/* slots.pxd: end_publishing */
inline end_publishing(s_, w_, st_) {
	if
	:: d_step { word[s_] == (w_) -> word[s_] = WORD(GEN(w_), st_, 0) }
	:: else
	fi
}

/* names.pxd: find_cell -- k: the cell that holds e_, or CELLS */
inline find_cell(e_) {
	k = 0;
	do
	:: k < CELLS ->
		if
		:: cells[k] == (e_) -> break
		:: cells[k] != (e_) -> k++
		fi
	:: else -> break
	od
}

/* names.pxd: unindex */
inline unindex(e_) {
	find_cell(e_);
	if
	:: k < CELLS ->
		if
		:: d_step { cells[k] == (e_) -> cells[k] = 0 }
		:: else
		fi
	:: else
	fi;
	k = 0
}

/* names.pxd: find, find_in -- e: what the name leads to, its cell k; or 0. The pin is in the one step that looks. */
inline find() {
	d_step { moved = 1; e = 0; k = 0 }
	do
	:: moved && e == 0 ->
		d_step { moved = 0; k = 0 }
		do
		:: k < CELLS ->
			if
			:: d_step { cells[k] != 0 -> e = cells[k] }
				if
				:: READABLE(e) -> break
				:: else
				fi;
				if
				:: cells[k] != e -> moved = 1
				:: cells[k] == e
				fi;
				d_step { e = 0; k++ }
			:: cells[k] == 0 -> k++
			fi
		:: else -> break
		od
	:: else -> break
	od;
	moved = 0
}

/* names.pxd: index, index_in -- into any cell that leads nowhere */
inline index(e_) {
	k = 0;
	do
	:: k < CELLS ->
		if
		:: d_step { !LIVE(k) -> seen = cells[k] }
			if
			:: d_step { cells[k] == seen -> cells[k] = (e_); ok = 1 } break
			:: else
			fi
		:: else
		fi;
		k++
	:: else -> break
	od;
	atomic { assert(ok); seen = 0 }
}

/* recovery.pxd: finish_dead_publish -- the index says how far the publisher got */
inline finish_dead_publish() {
	e = CELL(s, GEN(w));
	find_cell(e);
#ifdef M_CONDEMN_DEAD           /* what was being published goes, even if the name leads to it */
	k = CELLS;
#endif
#ifdef M_SEAL_DEAD              /* it is sealed, even if nothing leads to it */
	k = 0;
#endif
	if
	:: k < CELLS ->
#ifndef M_KEEP_REPLACED         /* H26: sealed, and what it replaces stays */
		condemn_replaced(s);
#endif
		end_publishing(s, w, SEALED)
	:: else ->
		end_publishing(s, w, CONDEMNED);
		reap_condemned(s)
	fi;
	atomic { e = 0; k = 0 }
}

/* recovery.pxd: sweep */
inline sweep(r_) {
	s = 0;
	do
	:: s < S ->
		if
		:: ST(word[s]) == CONDEMNED -> reap_condemned(s)
		:: d_step { ST(word[s]) == WRITING && ROW(word[s]) == r_ -> w = word[s] }
			end_publishing(s, w, CONDEMNED);        /* recovery.pxd: condemn_dead */
			reap_condemned(s)
		:: d_step { ST(word[s]) == PUBLISHING && ROW(word[s]) == r_ -> w = word[s] }
			finish_dead_publish()
		:: else
		fi;
		d_step { s++; w = 0; ok = 0 }
	:: else -> s = 0; break
	od
}

/* recovery.pxd: release_locks */
inline release_locks(r_) {
	if
	:: name_lock == r_ + 1 -> name_lock = 0
	:: else
	fi
}

/* recovery.pxd: recover_locked; process_table.pxd: free_row; the dead row's kernel lock is ours */
inline recover_locked(r_) {
#ifdef M_RELEASE_FIRST          /* the name is free to others before it is known what the dead one did to it */
	release_locks(r_);
#endif
	sweep(r_);
#ifndef M_RELEASE_FIRST
	release_locks(r_);
#endif
	state[r_] = 0
}

/* recovery.pxd: recover_row */
inline recover_row(r_) {
	/* what we are doing with a slot of our own waits: the sweep has variables of its own */
	atomic { my_s = s; my_g = g };
	if
	:: d_step { lk[r_] == 0 -> lk[r_] = c + 1 }
		if
		:: state[r_] -> recover_locked(r_)
		:: else
		fi;
		lk[r_] = 0
	:: else
	fi;
	atomic { s = my_s; g = my_g; my_s = 0; my_g = 0 }
}

/* lock.pxd: lock -- of the name; of ERR_DEAD, recovery.pxd: retry_after_dead_blocker */
inline lock() {
	do
	:: d_step { name_lock == 0 -> name_lock = me + 1 } break
	:: d_step { name_lock != 0 && lk[name_lock - 1] == 0 -> t = name_lock - 1 }
		recover_row(t);
		t = 0
	od
}

/* lock.pxd: unlock */
inline unlock() { name_lock = 0 }

/* names.pxd: publish_locked -- s: our slot, g: its generation, e: what the name leads to, in cell k; or 0 */
inline publish_locked() {
	skip;
#if !defined(M_NO_RECORD) && !defined(M_RECORD_LATE)
	replaces[s] = e;
#else
	replaces[s] = 0;            /* H26: nobody knows what the dead one meant to end */
#endif
#ifdef M_INDEX_LAST             /* H26: sealed, then indexed: who dies between leaves what nobody finds */
	word[s] = WORD(g, SEALED, 0);
#else
#ifndef M_SEAL_GAP              /* H26: indexed before it can be read */
	d_step { assert(word[s] == WORD(g, WRITING, me)); word[s] = WORD(g, PUBLISHING, me) }
#endif
#endif
#ifdef M_CONDEMN_FIRST          /* H26: the old object goes before the new one is there */
	if :: e -> condemn(e) :: else fi;
#endif
	ok = 0;
	if
	:: d_step { e != 0 && cells[k] == e -> cells[k] = CELL(s, g); ok = 1 }
	:: else -> index(CELL(s, g))
	fi;
#ifdef M_RECORD_LATE            /* H26: recorded after the index has changed */
	replaces[s] = e;
#endif
#ifdef M_SEAL_FIRST             /* the lock's holder may die with the old object still SEALED, and nobody knows */
	end_publishing(s, WORD(g, PUBLISHING, me), SEALED);
#endif
	if
	:: e -> condemn(e)
	:: else
	fi;
#ifdef M_SEAL_GAP
	end_publishing(s, WORD(g, WRITING, me), SEALED)
#else
	end_publishing(s, WORD(g, PUBLISHING, me), SEALED)
#endif
}

/* slots.pxd: claim; names.pxd: publish; the unpin at its end reaps what was replaced */
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

/* names.pxd: remove -- of the object that slot s has now */
inline remove() {
	g = GEN(word[s]);
	do
	:: d_step { word[s] == WORD(g, SEALED, 0) -> skip }
#ifdef M_UNINDEX_FIRST          /* H26: who dies between leaves an object that nobody finds */
		unindex(CELL(s, g));
		condemn(CELL(s, g));
		if :: ok -> reap_condemned(s) :: else fi;
#else
		condemn(CELL(s, g));
		if
		:: ok -> unindex(CELL(s, g)); reap_condemned(s)
		:: else
		fi;
#endif
		break
	:: GEN(word[s]) == g && ST(word[s]) == PUBLISHING ->
#ifdef M_CONDEMN_PUBLISHING     /* H27: its publisher is half way, and what it replaces is forgotten */
		if
		:: d_step { GEN(word[s]) == g && ST(word[s]) == PUBLISHING -> word[s] = WORD(g, CONDEMNED, 0) }
			unindex(CELL(s, g)); reap_condemned(s); break
		:: else
		fi
#else
		lock();                 /* until its publisher is through, or known to be dead */
		unlock()
#endif
	:: else -> break
	od
}

/* names.pxd: find -- by a reader */
inline get() {
	d_step { there = LIVE(0) || LIVE(1) }
	find();
#ifdef NO_REMOVE
	atomic { assert(!there || e != 0); there = 0 }
#endif
}

inline forget() {
	d_step { s = 0; g = 0; e = 0; k = 0; r = 0; w = 0; t = 0; ok = 0; moved = 0; seen = 0; my_s = 0; my_g = 0; there = 0 }
}

#define MAY_REMOVE(s_) (ST(word[s_]) == SEALED || ST(word[s_]) == PUBLISHING)

proctype Process(byte c) {
	byte me, s, g, e, k, r, w, t, n, seen, my_s, my_g;
	bit ok, moved, there;
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

/* SIGKILL: the kernel drops the row locks */
inline kill(c) {
	atomic {
		runs[c] && !dead[c] && deaths < CR -> deaths++; dead[c] = 1;
		if :: lk[0] == c + 1 -> lk[0] = 0 :: else fi;
		if :: lk[1] == c + 1 -> lk[1] = 0 :: else fi
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
end0:	LIVE(0) || LIVE(1);
end:	atomic { (LIVE(0) && LIVE(1)) || !(LIVE(0) || LIVE(1)) -> assert(false) }
#else
end:	atomic { LIVE(0) && LIVE(1) -> assert(false) }
#endif
}

/* recovery.pxd: recover_dead -- when all is quiet; then nothing may be left over */
proctype Last() {
	byte c, me, s, g, e, k, r, w, t, seen, my_s, my_g;
	bit ok;
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
