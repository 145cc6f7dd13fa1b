/*
 * What pin_reap.pml is made of: the functions of slots.pxd and recovery.pxd, one inline each, and what of
 * others they stand on. In each, `me` is the row that the process acts as, `c` the process, `s` the
 * slot, `g` the generation in the ref, `w` a word that was loaded. A guard with what follows it in one
 * d_step is one access; where the code loads and then compares and swaps, both are here, unless the
 * load decides nothing. H1 and so on, here and in the other models: see "The hazards" in
 * docs/reliability.md.
 */

/* slots.pxd: give_hint */
inline give_hint() { hint[s] = 1 }

/* slots.pxd: unclaim */
inline unclaim() {
	d_step { assert(word[s] == w); word[s] = WORD(GEN(w), FREE, 0) }
	give_hint()
}

/* slots.pxd: free_slot -- `w` is the word, which is ours alone */
inline free_slot() {
#ifdef M_HINT_FIRST             /* H7: hint before word */
	give_hint();
#endif
#ifndef M_MASK_EMPTIED_LATE     /* the mask is emptied when others may have the slot already */
	mask[s] = 0;
#endif
	d_step {
		assert(word[s] == w && NOBODY(s));
		word[s] = (GEN(w) == LAST -> WORD(LAST, RETIRED, 0) : WORD(GEN(w) + 1, FREE, 0))
	}
#ifdef M_MASK_EMPTIED_LATE
	mask[s] = 0;
#endif
#ifndef M_HINT_FIRST
	give_hint()
#endif
}

/* slots.pxd: pinned_by -- got: some live row pins the slot */
inline pinned_by() {
	d_step { rows = MARKED(mask[s]); got = 0 }
	d_step { rows = rows & live }
	do
	:: d_step { rows != 0 ->
		k = (rows & 1 -> 0 : (rows & 2 -> 1 : 2));
		rows = rows & (rows - 1);
		if
		:: cell[k * S + s] != 0 -> got = 1; rows = 0
		:: else
		fi;
		k = 0
	   }
	:: else -> break
	od
}

/* slots.pxd: pinned_at_all -- got: as pinned_by(), and no fork has carried a pin past the scan */
inline pinned_at_all() {
#ifdef FORK
	moved = moves;
	do
	:: d_step { before = moved }
	   pinned_by();
	   if
	   :: got -> break
#ifdef M_IGNORE_MOVES           /* H21: one scan, whatever moved meanwhile */
	   :: else -> break
#else
	   :: !got && moves == before -> break
	   :: !got && moves != before -> moved = moves
#endif
	   fi
	od;
	atomic { moved = 0; before = 0 }
#else
	pinned_by()
#endif
}

/* slots.pxd: try_reap -- `w` was CONDEMNED when loaded */
inline try_reap() {
	pinned_at_all();
	if
	:: !got ->
#ifdef M_NO_CLAIM               /* H6: two reapers may both see no pin */
		d_step { assert(NOBODY(s)); mask[s] = 0; word[s] = WORD(GEN(w) + 1, FREE, 0) }
		give_hint()
#else
		if
#ifdef M_STATE_CAS              /* H4: the CAS looks at the state, not at the generation */
		:: d_step { ST(word[s]) == CONDEMNED -> w = word[s];
#else
		:: d_step { word[s] == w ->
#endif
			assert(NOBODY(s)); w = WORD(GEN(w), RECLAIMING, me); word[s] = w }
		   free_slot()
		:: else
		fi
#endif
	:: else
	fi
}

/* slots.pxd: reap_condemned */
inline reap_condemned() {
	if
	:: d_step { ST(word[s]) == CONDEMNED -> w = word[s] }
	   try_reap()
	:: else
	fi
}

/* slots.pxd: unpin */
inline unpin() {
#ifdef M_UNPIN_LOADS_FIRST      /* H2: the word is loaded before the pin goes */
	w = word[s];
	d_step { cell[me * S + s]--; holds[c * S + s] = 0 }
	if :: ST(w) == CONDEMNED -> try_reap() :: else fi
#else
	d_step { cell[me * S + s]--; holds[c * S + s] = 0 }
#ifndef M_UNPIN_NO_REAP         /* the last reader does not look whether it must reap */
	reap_condemned()
#endif
#endif
}

/* slots.pxd: is_readable */
#define READABLE (GEN(word[s]) == g && ST(word[s]) == SEALED)
#ifdef EVICT
#define HOLD_IT assert((gone & BIT(g)) == 0); holds[c * S + s] = g + 1
#else
#define HOLD_IT holds[c * S + s] = g + 1
#endif

#ifdef EVICT
/* slots.pxd: pin_offered -- our pin is there, and held nothing when we looked */
inline pin_offered() {
	w = word[s];
	do
	:: GEN(w) == g && (ST(w) == SEALED || ST(w) == OFFERED) ->
#ifndef M_RESCUE_UNMARKED       /* the next offer's scan passes over who has rescued the object */
		mask[s] = mask[s] | MARK(me);
#endif
		if
#ifdef M_NO_RESCUE              /* what is offered is read, and the offer stands */
		:: ST(w) == OFFERED -> d_step { HOLD_IT; ok = 1 } break
#else
		:: d_step { ST(w) == OFFERED && word[s] == w -> word[s] = WORD(g, SEALED, 0); HOLD_IT; ok = 1 } break
		:: d_step { ST(w) == OFFERED && word[s] != w -> w = word[s] }
#endif
		:: d_step { ST(w) == SEALED -> w = word[s]; if :: READABLE -> HOLD_IT; ok = 1 :: else fi }
			if :: ok -> break :: else fi
		fi
	:: else -> break
	od;
	w = 0
}
#endif

/* slots.pxd: pin */
inline pin() {
#if defined(M_CHECK_FIRST)      /* the word is looked at before the pin, and not after */
	if
	:: READABLE -> d_step { cell[me * S + s]++; HOLD_IT; ok = 1 } mask[s] = mask[s] | MARK(me)
	:: else -> cell[me * S + s]++
	fi;
#else
#ifdef M_TSO                    /* H2: a plain store, which others see later than our next load */
	buffered[c] = me * S + s + 1;
#else
	cell[me * S + s]++;
#endif
	if
	:: READABLE ->
#if defined(M_NO_SECOND_LOAD)   /* the pin is believed before its mark is set */
		d_step { HOLD_IT; ok = 1 }
		if :: (mask[s] & MARK(me)) == 0 -> mask[s] = mask[s] | MARK(me) :: else fi
#else
		if :: (mask[s] & MARK(me)) == 0 -> mask[s] = mask[s] | MARK(me) :: else fi;
		if :: d_step { READABLE -> HOLD_IT; ok = 1 } :: else fi
#endif
	:: else
	fi;
#ifdef M_TSO
	buffered[c] == 0;
#endif
#endif
#ifdef EVICT
	if :: !ok -> pin_offered() :: else fi;
#endif
	if
	:: ok
#ifdef M_UNDO_NO_REAP           /* H1: undoing a pin is not unpinning */
	:: else -> cell[me * S + s]--
#else
	:: else -> unpin()
#endif
	fi
}

/* publication.pxd: remove -- of an object without a name; slots.pxd: condemn -- its first load is in the CAS here */
inline remove() {
#ifdef EVICT
	there = (GEN(word[s]) == g && (ST(word[s]) == SEALED || ST(word[s]) == OFFERED) -> BIT(g) : 0);
#endif
#ifdef M_SCAN_FIRST             /* H2: the pins are looked at before the word is condemned */
	pinned_by();
	if
	:: d_step { word[s] == WORD(g, SEALED, 0) -> word[s] = WORD(g, CONDEMNED, 0) }
	   if
	   :: !got && word[s] == WORD(g, CONDEMNED, 0) ->
		d_step { word[s] == WORD(g, CONDEMNED, 0) -> assert(NOBODY(s)); w = WORD(g, RECLAIMING, me); word[s] = w }
		free_slot()
	   :: else
	   fi
	:: else
	fi
#else
	if
	:: d_step { word[s] == WORD(g, SEALED, 0) -> word[s] = WORD(g, CONDEMNED, 0) }
	   reap_condemned()
#if defined(EVICT) && !defined(M_DELETE_BLIND)  /* what is offered is not there for who deletes */
	:: d_step { GEN(word[s]) == g && ST(word[s]) == OFFERED -> word[s] = WORD(g, CONDEMNED, 0) }
	   reap_condemned()
#endif
	:: else
	fi;
#ifdef EVICT
	gone = gone | there
#endif
#endif
}

/* slots.pxd: abandon -- what was being written goes with the last view of it; pin_own before, unpin after */
inline abandon() {
	cell[me * S + s]++;
	mask[s] = mask[s] | MARK(me);
	d_step { assert(word[s] == w); word[s] = WORD(GEN(w), CONDEMNED, 0) }
	unpin()
}

/* slots.pxd: seal -- or what _core.pyx does when a put or a Writer is given up */
inline publish_object() {
	if
	:: d_step { assert(word[s] == w); word[s] = WORD(GEN(w), SEALED, 0) }
	:: true ->
		if
		:: shared -> abandon()
		:: else -> free_slot()
		fi
	fi;
	shared = 0
}

/* slots.pxd: claim -- then the bytes are written */
inline claim() {
	if
	:: d_step { ST(word[s]) == FREE -> w = word[s] }
		if
		:: d_step { word[s] == w -> assert(NOBODY(s)); w = WORD(GEN(w), WRITING, me); word[s] = w }
#ifdef WRITER
			mine = s + 1
#else
			publish_object()
#endif
#ifdef HOLD
		:: d_step { word[s] == w -> assert(NOBODY(s)); w = WORD(GEN(w), HELD, me); word[s] = w }
			unclaim()
#endif
		:: else
		fi
	:: else                         /* a hint that is not true is dropped */
	fi
}

#ifdef EVICT
/* slots.pxd: reuse_slot -- then the bytes are written */
inline reuse_slot() {
	mask[s] = 0;
	d_step { assert(word[s] == w && NOBODY(s)); w = WORD(GEN(w) + 1, WRITING, me); word[s] = w }
	publish_object()
}

/* units.pxd: may_go, take_object; slots.pxd: offer, withdraw, take_offered */
inline evict() {
	if
	:: d_step { ST(word[s]) == SEALED -> w = word[s] }
#ifdef THREADS
#ifndef M_GIL_LET_GO            /* another thread of the process offers it by the same word meanwhile */
		d_step { gil == 0 -> gil = c + 1 }
#endif
#endif
#ifdef M_OFFER_LATE             /* the pins are looked at before the offer stands */
		pinned_at_all();
		if
		:: d_step { !got && word[s] == w -> w = WORD(GEN(w), OFFERED, me); word[s] = w }
#else
		if
		:: d_step { word[s] == w -> w = WORD(GEN(w), OFFERED, me); word[s] = w }
			pinned_at_all();
#endif
			if
			:: got ->
				if :: d_step { word[s] == w -> word[s] = WORD(GEN(w), SEALED, 0) } :: else fi
			:: !got ->
				if
#ifdef M_EVICT_STORE            /* the block is taken by a store, whoever has rescued it since the scan */
				:: d_step { assert(NOBODY(s)); w = WORD(GEN(w), RECLAIMING, me); word[s] = w }
#else
				:: d_step { word[s] == w -> assert(NOBODY(s)); w = WORD(GEN(w), RECLAIMING, me); word[s] = w }
#endif
					if
					:: GEN(w) < LAST -> reuse_slot()
					:: true -> free_slot()
					fi
#ifndef M_EVICT_STORE
				:: else
#endif
				fi
			fi
		:: else
		fi
#ifdef THREADS
		; d_step { if :: gil == c + 1 -> gil = 0 :: else fi }
#endif
	:: else
	fi
}
#endif

/* bitmap.pxd: hint_take */
inline put() {
	if
	:: d_step { hint[s] -> hint[s] = 0 }
	   claim()
#ifdef HOLD                             /* blocks.pxd: take_recent -- a slot that it freed last, without its hint */
	:: true -> claim()
#endif
	:: else
	fi
}

/* slots.pxd: restore_hint */
inline restore_hint() {
	if :: !hint[s] -> hint[s] = 1 :: else fi
}

/* recovery.pxd: zero_pins */
inline zero_pins(r_) {
	s = 0;
	do
	:: s < S -> d_step { cell[r_ * S + s] = 0; s++ }
	:: else -> s = 0; break
	od
}

/* recovery.pxd: condemn_dead */
inline condemn_dead() {
	d_step { assert(word[s] == w); word[s] = WORD(GEN(w), CONDEMNED, 0) }
	reap_condemned()
}

/* recovery.pxd: sweep */
inline sweep(r_) {
	s = 0;
	do
	:: s < S ->
		if
#ifndef M_NO_RESTORE            /* H8: a FREE slot without its hint stays hidden */
		:: ST(word[s]) == FREE || ST(word[s]) == RETIRED -> restore_hint()
#endif
#ifdef M_SWEEP_PINNED           /* H8: only slots that the dead one pinned */
		:: d_step { ST(word[s]) == CONDEMNED && (pinned >> s & 1) -> w = word[s] }
		   try_reap()
#else
		:: d_step { ST(word[s]) == CONDEMNED -> w = word[s] }
		   try_reap()
#endif
		:: d_step { ST(word[s]) == WRITING && ROW(word[s]) == r_ -> w = word[s] }
#ifdef M_FREE_WRITING           /* H23: a forked child may have views of what the dead one was writing */
		   free_slot()
#else
		   condemn_dead()
#endif
#ifndef M_NO_RECLAIMING         /* H6: who dies while it reaps leaves the slot so */
		:: d_step { ST(word[s]) == RECLAIMING && ROW(word[s]) == r_ -> w = word[s] }
		   free_slot()
#endif
#ifdef HOLD
		:: d_step { ST(word[s]) == HELD && ROW(word[s]) == r_ -> w = word[s] }
		   unclaim()
#endif
#ifdef EVICT
#ifndef M_LEAVE_OFFERED         /* who dies with an offer leaves an object that nobody can evict again */
		:: d_step { ST(word[s]) == OFFERED && ROW(word[s]) == r_ -> w = word[s] }
		   if :: d_step { word[s] == w -> word[s] = WORD(GEN(w), SEALED, 0) } :: else fi
#endif
#endif
		:: else
		fi;
		d_step { s++; w = 0; got = 0 }
	:: else -> s = 0; break
	od
}

/* recovery.pxd: free_row */
inline free_row(r_) {
	live = live & ~BIT(r_);
	state[r_] = 0
}

/* recovery.pxd: recover_locked -- row r_'s kernel lock is ours; me is the row that we act as */
inline recover_locked(r_) {
#ifdef M_SWEEP_PINNED
	pinned = cell[r_ * S];
#endif
#ifdef M_SWEEP_BEFORE_PINS      /* the sweep is stopped by pins that are zeroed after it */
	sweep(r_);
	zero_pins(r_);
#else
#ifdef M_FREE_ROW_EARLY         /* H12: then the recoverer dies, and nobody sweeps */
	free_row(r_);
#endif
	zero_pins(r_);
	sweep(r_);
#endif
#ifndef M_FREE_ROW_EARLY
	free_row(r_)
#endif
}

/* process_table.pxd: mark_live */
inline mark_live(r_) {
	live = live | BIT(r_)
}

/* process_table.pxd: join_row */
inline join_row(r_) {
	state[r_] = 1;
	mark_live(r_)
}

/* process_table.pxd: lock_row */
inline lock_row(r_) {
	atomic {
		if
		:: lk[0] == 0 -> r_ = 0
		:: lk[1] == 0 -> r_ = 1
#if R > 2
		:: lk[2] == 0 -> r_ = 2
#endif
		fi;
		lk[r_] = c + 1
	}
}

/* recovery.pxd: enter -- its recover_dead() may come at any later time: it is an operation of its own here */
inline enter() {
#ifndef M_ENTER_NO_RECOVERY     /* H11: a newcomer takes a dead one's row as it is */
	if
	:: state[me] ->
#ifndef M_ENTER_UNMARKED        /* who dies in this recovery is not found: its slots carry a row that is not live */
		mark_live(me);
#endif
		recover_locked(me)
	:: else
	fi;
#endif
#ifdef M_LIVE_LATE              /* H10: the row is marked live after the first operation */
	state[me] = 1
#else
	join_row(me)
#endif
}

/* recovery.pxd: recover_row; view.pxd: row_is_dead */
inline recover_row(r_) {
#ifdef M_RECOVER_UNLOCKED       /* H11: it was dead when we asked */
	if
	:: state[r_] && lk[r_] == 0 -> recover_locked(r_)
	:: else
	fi
#else
	if
	:: d_step { lk[r_] == 0 -> lk[r_] = c + 1 }
		if
		:: state[r_] -> recover_locked(r_)
		:: else
		fi;
		lk[r_] = 0
	:: else
	fi
#endif
}
