/*
 * Objects that go with a process: put as owned, adopted, disowned, deleted, among processes that leave or
 * may be killed at any moment, and rows that others use after them.
 *
 * Modelled. N processes with a row each, S slots whose last generation is LAST. Each does up to K works,
 * over all its lives: put, owned or not; adopt and disown, with a pin; delete; recover a dead row; then it
 * leaves. CR kills between any two steps, also of who recovers; a new process may take a dead one's place
 * or that of one that has left, but not of three. With FORK, the
 * first owns an object, and the last process is none until it forks. A word is
 * (generation, state, row); `owned` is 0 or the owner's row + 1, with GOING.
 *
 * Left out. Names; what is PUBLISHING or OFFERED (publish.pml, pin_reap.pml): recovery looks at the owner
 * again when it has finished a publication or withdrawn an offer. The steps of a pin and of a reap
 * (pin_reap.pml): each is one here.
 *
 * Checked. Recovery and leaving delete nothing that belongs to the store, or to a process that lives and
 * is not leaving. Who has left owns nothing that lives. Whoever takes a row finds nothing that belongs to
 * it. When all is quiet, and one process has recovered the dead rows: nothing lives that a dead one owned.
 */
#ifndef N
#define N 2
#endif
#ifndef S
#define S 1
#endif
#ifndef K
#define K 2
#endif
#ifndef CR
#define CR 1
#endif
#ifndef LAST
#define LAST 2          /* generation at which a slot is used no more */
#endif

/* of three, the first alone puts, and nobody comes after the dead */
#if N > 2
#define MAY_PUT (c == 0)
#define MAY_COME_BACK false
#else
#define MAY_PUT true
#define MAY_COME_BACK true
#endif

#define FREE 0
#define WRITING 1
#define SEALED 3
#define CONDEMNED 4

/* slots.pxd: make_word, word_state, word_row, word_generation */
#define WORD(gen_, st_, row_) ((st_) | (row_) << 3 | (gen_) << 5)
#define ST(w_)  ((w_) & 7)
#define ROW(w_) ((w_) >> 3 & 3)
#define GEN(w_) ((w_) >> 5)
#define GOING 16
#define BIT(r_) (1 << (r_))

byte word[S]; byte owned[S]; byte pins[S];
bit state[N]; bit owns_any[N];
byte lk[N];                     /* the kernel's: process + 1 that has the row's byte locked */
bit runs[N]; bit dead[N]; byte deaths; byte done; byte child_row;

/* what is true: process + 1 with which the object goes; 0: the store's */
#define ORPHAN 9
byte owner[S]; bit leaving[N];
#define MAY_GO(s_) (owner[s_] == ORPHAN || (owner[s_] != 0 && leaving[owner[s_] - 1]))

/* slots.pxd: reap_condemned */
inline reap_condemned() {
	if
	:: d_step { ST(word[s]) == CONDEMNED && pins[s] == 0 -> word[s] = WORD(GEN(word[s]) + 1, FREE, 0) }
	:: else
	fi
}

/* publication.pxd: remove; slots.pxd: condemn -- of generation g_, which goes with its owner */
inline remove_owned(g_) {
	if
#ifdef M_NO_GENERATION          /* whatever is in the slot by now */
	:: d_step { ST(word[s]) == SEALED -> assert(MAY_GO(s)); owner[s] = 0; word[s] = WORD(GEN(word[s]), CONDEMNED, 0) }
#else
	:: d_step { word[s] == WORD(g_, SEALED, 0) -> assert(MAY_GO(s)); owner[s] = 0; word[s] = WORD(g_, CONDEMNED, 0) }
#endif
	   reap_condemned()
	:: else
	fi
}

/* owners.pxd: take_from_owner -- got: the object goes with row r_, and nobody adopts it any more */
inline take_from_owner(r_) {
	d_step { o = owned[s]; got = 0 }
#ifdef M_NO_TAKE                /* looked at, and not taken */
	got = (o == r_ + 1);
#else
	do
#ifdef M_GOING_FORGOTTEN        /* who recovered before us died, and nobody goes on */
	:: o == r_ + 1 ->
#else
	:: (o & ~GOING) == r_ + 1 ->
#endif
		if
		:: (o & GOING) != 0 -> got = 1; break
		:: d_step { (o & GOING) == 0 && owned[s] == o -> owned[s] = o | GOING; got = 1 } break
		:: d_step { (o & GOING) == 0 && owned[s] != o -> o = owned[s] }
		fi
	:: else -> break
	od;
#endif
	o = 0
}

/* recovery.pxd: sweep, delete_if_owned; owners.pxd: delete_all_owned, delete_owned */
inline sweep(r_) {
	s = 0;
	do
	:: s < S ->
		w = word[s];
		if
		:: ST(w) == SEALED && owns_any[r_] ->
			take_from_owner(r_);
			if
			:: got -> remove_owned(GEN(w))
			:: else
			fi
		:: ST(w) == WRITING && ROW(w) == r_ ->
			d_step { assert(word[s] == w); word[s] = WORD(GEN(w), CONDEMNED, 0) }
			reap_condemned()
		:: ST(w) == CONDEMNED -> reap_condemned()
		:: else
		fi;
		d_step { s++; w = 0; got = 0 }
	:: else -> s = 0; break
	od
}

/* recovery.pxd: zero_pins */
inline zero_pins(r_) {
	d_step { s = 0; do :: s < S -> pins[s] = pins[s] & ~BIT(r_); s++ :: else -> s = 0; break od }
}

/* recovery.pxd: recover_locked, free_row; the dead row's kernel lock is ours */
inline recover_locked(r_) {
#ifdef M_ROW_FIRST              /* the row is another's before its objects are gone */
	state[r_] = 0;
#endif
	zero_pins(r_);
	sweep(r_);
#ifdef M_ROW_FIRST
	skip
#else
	state[r_] = 0
#endif
}

/* recovery.pxd: recover_row */
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

/* owners.pxd: note_owner */
inline note_owner() { owns_any[me] = 1 }

/* slots.pxd: claim, seal -- put, owned or not */
inline put() {
	if
	:: d_step { ST(word[s]) == FREE && GEN(word[s]) < LAST -> g = GEN(word[s]); word[s] = WORD(g, WRITING, me) }
		if
		:: to != 0 ->
#ifndef M_NOTE_LATE
			note_owner();
#endif
			owned[s] = to
#ifdef M_OWNER_KEPT             /* an object of the store's has the owner of what was there before */
		:: else
#else
		:: else -> owned[s] = 0
#endif
		fi;
		d_step { assert(word[s] == WORD(g, WRITING, me)); word[s] = WORD(g, SEALED, 0); owner[s] = (to != 0 -> c + 1 : 0) }
#ifdef M_NOTE_LATE              /* who dies before it says that it owns something leaves it behind */
		if :: to != 0 -> note_owner() :: else fi
#endif
	:: else
	fi
}

/* owners.pxd: give_pinned, give_to -- to: our row + 1, adopt; or 0, disown */
inline give() {
	if
	:: d_step { ST(word[s]) == SEALED -> g = GEN(word[s]); pins[s] = pins[s] | BIT(me) }
#ifndef M_NOTE_LATE
		if :: to != 0 -> note_owner() :: else fi;
#endif
		o = owned[s];
		do
#ifdef M_GOING_IGNORED          /* it is on its way out, and adopted */
		:: true ->
#else
		:: (o & GOING) == 0 ->
#endif
			if
			:: word[s] == WORD(g, SEALED, 0)
			:: else -> break
			fi;
			if
#ifdef M_ADOPT_STORE            /* whoever takes it from its owner meanwhile does not know */
			:: d_step { owned[s] = to; owner[s] = (to != 0 -> c + 1 : 0) } break
#else
			:: d_step { owned[s] == o ->
				owned[s] = to;
				if :: word[s] == WORD(g, SEALED, 0) -> owner[s] = (to != 0 -> c + 1 : 0) :: else fi }
				break
			:: d_step { owned[s] != o -> o = owned[s] }
#endif
			fi
#ifndef M_GOING_IGNORED
		:: (o & GOING) != 0 -> remove_owned(g); break
#endif
		od;
#ifdef M_NOTE_LATE
		if :: to != 0 -> note_owner() :: else fi;
#endif
		pins[s] = pins[s] & ~BIT(me);
		reap_condemned()
	:: else
	fi
}

/* publication.pxd: remove */
inline remove() {
	if
	:: d_step { ST(word[s]) == SEALED -> g = GEN(word[s]) }
		if
		:: d_step { word[s] == WORD(g, SEALED, 0) -> owner[s] = 0; word[s] = WORD(g, CONDEMNED, 0) }
			reap_condemned()
		:: else
		fi
	:: else
	fi
}

/* owners.pxd: delete_all_owned; recovery.pxd: leave */
inline leave() {
	leaving[c] = 1;
#ifdef M_CHILD_IS_PARENT        /* a child leaves, and what its parent owns goes */
	if
	:: c == 2 -> sweep(0)
	:: else -> sweep(me)
	fi;
#else
	sweep(me);
#endif
	atomic { assert(owner[0] != c + 1); assert(S == 1 || owner[S - 1] != c + 1) }
	state[me] = 0;
	d_step { lk[me] = 0; leaving[c] = 0 }
}

/* recovery.pxd: enter; process_table.pxd: join_row */
inline enter() {
	if
	:: state[me] -> recover_locked(me)
	:: else
	fi;
	d_step {
		owns_any[me] = 0;
		assert(ST(word[0]) != SEALED || (owned[0] & ~GOING) != me + 1);
		assert(ST(word[S - 1]) != SEALED || (owned[S - 1] & ~GOING) != me + 1)
	}
	state[me] = 1
}

#ifdef FORK
/* fork.pxd: prepare_child */
inline fork() {
	atomic { lk[2] == 0 -> lk[2] = c + 1 }
	if
	:: state[2] -> recover_locked(2)
	:: else
	fi;
	owns_any[2] = 0;
	state[2] = 1;
	d_step { lk[2] = N; runs[2] = 1; child_row = 3 }
}
#endif

inline forget() {
	d_step { s = 0; g = 0; w = 0; t = 0; o = 0; to = 0; got = 0 }
}

proctype Process(byte c) {
	byte me, s, g, w, t, o, to, n; bit got;
#ifdef FORK
	if
	:: c == 2 ->
end:		d_step { child_row != 0 -> me = 2 }
		goto lives
	:: else -> me = c; goto lives
	fi;
#endif
again:
	{
		/* process_table.pxd: lock_row */
		atomic { lk[c] == 0 -> me = c; lk[me] = c + 1 }
		enter();
lives:
		do
		:: n < K ->
			atomic {
				n++;
				if
				:: s = 0
#if S > 1
				:: s = 1
#endif
				fi;
				if
				:: to = 0
				:: to = me + 1
				fi
			}
			if
			:: MAY_PUT && ST(word[s]) == FREE -> put()
			:: ST(word[s]) == SEALED -> give()
			:: ST(word[s]) == SEALED && to == 0 -> remove()
			:: atomic {
				if
				:: state[0] && lk[0] == 0 -> t = 0
				:: state[1] && lk[1] == 0 -> t = 1
#if N > 2
				:: state[2] && lk[2] == 0 -> t = 2
#endif
				fi }
				recover_row(t)
#ifdef FORK
			:: c == 0 && child_row == 0 -> fork()
#endif
			:: atomic { else -> skip }
			fi;
			forget()
		:: true -> leave(); break
		od;
		skip;
		d_step { forget(); me = 0 }
		if
		:: MAY_COME_BACK && n < K -> goto again         /* another process comes, through the same row */
		:: d_step { runs[c] = 0; done++; n = 0 }
		fi
	} unless {
		atomic {
			dead[c] -> dead[c] = 0; me = 0; forget();
			if
			:: MAY_COME_BACK -> goto again          /* a new process takes its place */
			:: runs[c] = 0; done++; n = 0
			fi
		}
	}
}

/* SIGKILL: the kernel drops the row locks */
inline kill(c) {
	atomic {
		runs[c] && !dead[c] && deaths < CR -> deaths++; dead[c] = 1; leaving[c] = 0; x = 0;
		do
		:: x < N -> if :: lk[x] == c + 1 -> lk[x] = 0 :: else fi; x++
		:: else -> break
		od;
		x = 0;
		do
		:: x < S -> if :: owner[x] == c + 1 -> owner[x] = ORPHAN :: else fi; x++
		:: else -> break
		od;
		x = 0
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

/* recovery.pxd: recover_dead -- when all is quiet; then nothing may be left over */
proctype Last() {
	byte c, me, s, g, w, t, o; bit got;
#ifdef FORK
	atomic { done == N || (done == N - 1 && child_row == 0) -> c = N }
#else
	atomic { done == N -> c = N }
#endif
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
		do
		:: s < S ->
			assert(ST(word[s]) == FREE || (ST(word[s]) == SEALED && owner[s] == 0 && owned[s] == 0));
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
#ifdef FORK
		:: i < N - 1 -> runs[i] = 1; lk[i] = i + 1; state[i] = 1; run Process(i); i++
		:: i == N - 1 -> run Process(i); i++
#else
		:: i < N -> runs[i] = 1; run Process(i); i++
#endif
		:: else -> break
		od;
#ifdef FORK
		word[0] = WORD(0, SEALED, 0); owned[0] = 1; owner[0] = 1; owns_any[0] = 1;
#endif
		run Killer(); run Last()
	}
}
