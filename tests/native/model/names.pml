/*
 * What publish.pml and claims.pml are made of: the functions of names.pxd and recovery.pxd on one name,
 * one inline each, and what of others they stand on. In each, `me` is the row that the process acts as,
 * `c` the process, `s` the slot, `g` its generation, `e` what the name leads to, as a cell, `k` that
 * cell's place, `w` a word that was loaded. With CLAIMS, a name may be claimed: `h` is the claim's cell,
 * `mine` the cell of our own.
 */

#define FREE 0
#define WRITING 1
#define PUBLISHING 2
#define SEALED 3
#define CONDEMNED 4
#define CLAIMED 5

/* slots.pxd: make_word, word_state, word_row, word_generation */
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
#ifdef CLAIMS
byte version[S]; byte versions; /* what is true: the order in which objects came under the name */
#endif

/* slots.pxd: is_readable */
#define READABLE(e_) (GEN(word[SLOT(e_)]) == EGEN(e_) && \
                      (ST(word[SLOT(e_)]) == SEALED || ST(word[SLOT(e_)]) == PUBLISHING))
#ifdef CLAIMS
#define FOREIGN 255             /* another name's cell; its object lives */
#define NAMED(k_) (cells[k_] != 0 && cells[k_] != FOREIGN)
#define IS_CLAIM(e_) (GEN(word[SLOT(e_)]) == EGEN(e_) && ST(word[SLOT(e_)]) == CLAIMED)
#define CLAIM(k_) (NAMED(k_) && IS_CLAIM(cells[k_]))
#else
#define NAMED(k_) (cells[k_] != 0)
#endif
#define OBJECT(k_) (NAMED(k_) && READABLE(cells[k_]))
/* names.pxd: cell_is_live */
#ifndef CLAIMS
#define LIVE(k_) OBJECT(k_)
#elif defined(M_CLAIM_NOT_LIVE) /* another name takes the claim's cell */
#define LIVE(k_) (cells[k_] == FOREIGN || OBJECT(k_))
#else
#define LIVE(k_) (cells[k_] == FOREIGN || OBJECT(k_) || CLAIM(k_))
#endif

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

/* slots.pxd: end_writing */
inline end_writing(s_, w_, st_) {
	if
	:: d_step { word[s_] == (w_) -> word[s_] = WORD(GEN(w_), st_, 0) }
	:: else
	fi
}

#ifdef CLAIMS
/* waiting.pxd: announce -- the futex word of the stripe changes, then all that sleep are woken: wait.pml */
inline announce() {
	looking = 0;
	asleep = 0
}
#endif

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
#ifdef CLAIMS
	announce();
#endif
	k = 0
}

/* names.pxd: find, find_in -- e: the object that the name leads to, its cell k; or 0. The pin is in the
 * one step that looks. */
inline find() {
	d_step { moved = 1; e = 0; k = 0 }
	do
	:: moved && e == 0 ->
		d_step { moved = 0; k = 0 }
		do
		:: k < CELLS ->
			if
			:: d_step { NAMED(k) -> e = cells[k] }
				if
#if defined(CLAIMS) && !defined(M_NO_THIRD_LOOK)
				:: READABLE(e) && ST(word[SLOT(e)]) == SEALED -> break
				:: READABLE(e) && ST(word[SLOT(e)]) != SEALED ->
					/* it may have been a claim when the cell was read, and its cell gone by now */
					if
					:: cells[k] == e -> break
					:: else
					fi
#else                           /* who holds a cell of a claim finds the object before the name leads to it */
				:: READABLE(e) -> break
#endif
				:: else
				fi;
				if
				:: cells[k] != e -> moved = 1
				:: cells[k] == e
				fi;
				d_step { e = 0; k++ }
			:: d_step { !NAMED(k) -> k++ }
			fi
		:: else -> break
		od
	:: else -> break
	od;
	moved = 0
}

#ifdef CLAIMS
/* claims.pxd: find_claim -- h: the cell of the claim on the name, of the hard one if there are two; or 0 */
inline find_claim() {
	d_step { h = 0; j = 0 }
	do
	:: j < CELLS ->
		d_step { if :: CLAIM(j) && (h == 0 || hard[SLOT(cells[j])]) -> h = cells[j] :: else fi; j++ }
	:: else -> j = 0; break
	od
}
#endif

/* names.pxd: index, index_in -- into any cell that leads nowhere; indexed: there was one */
inline index(e_) {
	d_step { k = 0; indexed = 0 }
	do
	:: k < CELLS ->
		if
		:: d_step { !LIVE(k) -> seen = cells[k] }
			if
			:: d_step { cells[k] == seen -> cells[k] = (e_); indexed = 1 } break
			:: else
			fi
		:: else
		fi;
		k++
	:: else -> break
	od;
	seen = 0
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
		end_writing(s, w, SEALED)
	:: else ->
		end_writing(s, w, CONDEMNED);
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
			end_writing(s, w, CONDEMNED);        /* recovery.pxd: condemn_dead */
			reap_condemned(s)
		:: d_step { ST(word[s]) == PUBLISHING && ROW(word[s]) == r_ -> w = word[s] }
			finish_dead_publish()
#ifdef CLAIMS
#ifndef M_KEEP_CLAIM            /* the dead one's claim stays, and with it whoever waits */
		:: d_step { ST(word[s]) == CLAIMED && ROW(word[s]) == r_ -> w = word[s] }
			end_writing(s, w, CONDEMNED);        /* recovery.pxd: end_dead_claim */
			unindex(CELL(s, GEN(w)));
			reap_condemned(s)
#endif
#endif
		:: else
		fi;
		d_step { s++; w = 0; ok = 0 }
	:: else -> s = 0; break
	od
}

/* recovery.pxd: release_locks -- and each stripe that somebody may sleep at is told, whoever locked it:
 * what was done to a name here, a recoverer before us may have done, and died */
inline release_locks(r_) {
#if defined(CLAIMS) && !defined(M_RECOVER_SILENT) && !defined(M_ANNOUNCE_OWN)
	announce();
#endif
	if
	:: name_lock == r_ + 1 ->
#ifdef M_ANNOUNCE_OWN
		announce();
#endif
		name_lock = 0
	:: else
	fi
}

/* recovery.pxd: recover_locked, free_row; the dead row's kernel lock is ours */
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

/* publication.pxd: publish_locked -- s: our slot, g: its generation, e: what the name leads to, in cell k; or 0 */
inline publish_locked() {
	skip;
#if !defined(M_NO_RECORD) && !defined(M_RECORD_LATE)
	replaces[s] = e;
#else
	replaces[s] = 0;            /* H26: nobody knows what the dead one meant to end */
#endif
#if defined(CLAIMS) && !defined(M_CELL_STAYS)   /* two objects have the name until the old one goes */
	if
	:: e != 0 && mine == CELL(s, g) ->
		d_step { if :: cells[0] == mine -> cells[0] = 0 :: cells[1] == mine -> cells[1] = 0 :: else fi }
	:: else
	fi;
#endif
#ifdef M_INDEX_LAST             /* H26: sealed, then indexed: who dies between leaves what nobody finds */
	word[s] = WORD(g, SEALED, 0);
#else
#ifndef M_SEAL_GAP              /* H26: indexed before it can be read */
#ifdef CLAIMS
	d_step {
		assert(word[s] == WORD(g, WRITING, me) || word[s] == WORD(g, CLAIMED, me));
		word[s] = WORD(g, PUBLISHING, me); versions++; version[s] = versions
	}
#else
	d_step { assert(word[s] == WORD(g, WRITING, me)); word[s] = WORD(g, PUBLISHING, me) }
#endif
#endif
#endif
#ifdef M_CONDEMN_FIRST          /* H26: the old object goes before the new one is there */
	if :: e -> condemn(e) :: else fi;
#endif
	indexed = 0;
	if
	:: d_step { e != 0 && cells[k] == e -> cells[k] = CELL(s, g); indexed = 1 }
#ifdef CLAIMS
	/* one CAS from the claim to the object: the place is there, whatever other names do */
#ifdef M_OVER_TAKES_CELL        /* who publishes over a claim takes its cell: the maker is not seen any more */
	:: d_step { e == 0 && h != 0 && h != CELL(s, g) && (cells[0] == h || cells[1] == h) ->
		if :: cells[0] == h -> cells[0] = CELL(s, g) :: else -> cells[1] = CELL(s, g) fi; indexed = 1 }
#else
	:: d_step { e == 0 && mine != 0 && mine != CELL(s, g) && (cells[0] == mine || cells[1] == mine) ->
		if :: cells[0] == mine -> cells[0] = CELL(s, g) :: else -> cells[1] = CELL(s, g) fi;
		indexed = 1; making = making & ~BIT(c) }
#endif
	:: d_step { e == 0 && mine == CELL(s, g) -> indexed = 1 }       /* it led to us all the time */
#ifdef M_CELL_STAYS
	:: d_step { e != 0 && cells[k] != e && mine == CELL(s, g) -> indexed = 1 }
#endif
#endif
	:: else -> index(CELL(s, g))
	fi;
#ifdef M_RECORD_LATE            /* H26: recorded after the index has changed */
	replaces[s] = e;
#endif
#ifdef M_SEAL_FIRST             /* the lock's holder may die with the old object still SEALED, and nobody knows */
	end_writing(s, WORD(g, PUBLISHING, me), SEALED);
#endif
	if
	:: e -> condemn(e)
	:: else
	fi;
	if
	:: indexed ->
#ifdef M_SEAL_GAP
		end_writing(s, WORD(g, WRITING, me), SEALED)
#else
		end_writing(s, WORD(g, PUBLISHING, me), SEALED)
#endif
	:: else ->
		end_writing(s, WORD(g, PUBLISHING, me), CONDEMNED);
		reap_condemned(s)
	fi
}

/* publication.pxd: remove -- of the object that slot s has now */
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

/* SIGKILL: the kernel drops the row locks, and takes it out of its queue */
inline kill(c) {
	atomic {
		runs[c] && !dead[c] && deaths < CR -> deaths++; dead[c] = 1;
		if :: lk[0] == c + 1 -> lk[0] = 0 :: else fi;
		if :: lk[1] == c + 1 -> lk[1] = 0 :: else fi
#if N > 2
		; if :: lk[2] == c + 1 -> lk[2] = 0 :: else fi
#endif
#ifdef CLAIMS
		; looking = looking & ~BIT(c); asleep = asleep & ~BIT(c); making = making & ~BIT(c)
#endif
	}
}
