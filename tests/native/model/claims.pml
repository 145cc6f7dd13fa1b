/*
 * One maker of what is not there: processes that find nothing under a name claim it, and make the object
 * while others wait; beside others that put, replace and delete, and claims that nobody may pass.
 *
 * Modelled. A claim is a slot in CLAIMED(row), with a cell of its name; it is made under the name's lock.
 * N processes, each with its own kind of work: MAKE gets the object or makes it under a soft claim, which
 * PUT passes over, and REPLACE, which passes over an object, too; HARD and RENEW write into the slot of a
 * hard claim, which may stand beside a soft one, and RENEW's beside an object that it replaces; REMOVE
 * deletes; OTHER publishes under another name, into any cell that leads nowhere; RECOVER recovers a dead
 * row. Up to K works each over all their lives; CR kills between any two steps, also of who recovers; a new
 * process may take a dead one's place, but for GONE and FORK. With FORK, the last process is none until a
 * maker forks in the midst of its work; with IDLE it does nothing else of its own. With NAP a sleeper wakes by itself, and looks again, if that shows
 * it anything; with PASSER, somebody comes by and recovers the dead. With ALIKE all have the same kind of
 * work, so they join in one order, which stands for all others, and each does its works: who does none is
 * not there, in the same with a process less.
 *
 * Left out. What publish.pml leaves out. `awake_until` and the clock (wait.pml): here every announcement
 * wakes. Makers that wait for each other. Who meets a hard claim and does not wait for it gives up.
 *
 * Checked. Never do two living makers of a name work at once, nor does one begin on what is there. Never
 * do cells lead to two objects, or to two claims of a kind; nobody who looks finds an older one than
 * somebody found before. Nobody puts a name that another has claimed hard.
 * Who looks for what is there finds it. When all is quiet: nobody sleeps, no claim is left, and each slot is
 * FREE, or SEALED and the name leads to it.
 */
#define CLAIMS
#define MAKE 1
#define PUT 2
#define REPLACE 4
#define HARD 8
#define RENEW 16
#define REMOVE 32
#define OTHER 64
#define RECOVER 128
#ifndef N
#define N 2
#endif
#ifndef W0
#define W0 MAKE
#endif
#ifndef W1
#define W1 MAKE
#endif
#ifndef W2
#define W2 MAKE
#endif
#define DOES(work_) (((c == 0 -> W0 : (c == 1 -> W1 : W2)) & (work_)) != 0)
#ifndef S
#define S 3
#endif
#ifndef K
#define K 1
#endif
#ifndef CR
#define CR 1
#endif
#ifndef LAST
#define LAST 3          /* generation at which a slot is used no more */
#endif
#define CELLS 2
#define BIT(c_) (1 << (c_))

bit hard[4];                    /* in the slot of a claim: nobody may pass it */
byte looking;                   /* who has read the futex word, and would find it unchanged */
byte asleep;                    /* who sleeps at it */
byte making; byte born;         /* who runs a factory; and the claim that the child of one has from it */
byte child_row;
#ifdef ALIKE
byte joined;
#define MAY_JOIN (c == joined)
#define MAY_LEAVE (n == K)
#else
#define MAY_JOIN true
#define MAY_LEAVE true
#endif
byte found;                     /* the newest object that somebody has found */

#include "names.pml"

#define THERE (OBJECT(0) || OBJECT(1))
#define DEAD(r_) (state[r_] && lk[r_] == 0)
#ifdef FORK
#define ENDED (done == N || (done == N - 1 && child_row == 0))
#else
#define ENDED (done == N)
#endif
#define KEEPS (((W0 | W1 | W2) & REMOVE) == 0)
#define CLAIM_OF_LIVING(k_) (CLAIM(k_) && lk[ROW(word[SLOT(cells[k_])])] != 0)

/* what a sleeper that wakes by itself finds out */
#if defined(M_LOOKS_AT_NAME_ONLY)
#define NAP_HELPS THERE
#elif defined(M_LOOKS_AT_DEAD_ONLY)
#define NAP_HELPS (IS_CLAIM(h) && lk[ROW(word[SLOT(h)])] == 0)
#else
#define NAP_HELPS (THERE || !(CLAIM_OF_LIVING(0) || CLAIM_OF_LIVING(1)))
#endif

/* the kernel compares the futex word with what was read, and queues, in one step */
inline sleep() {
	if
	:: d_step { (looking & BIT(c)) != 0 -> looking = looking & ~BIT(c); asleep = asleep | BIT(c) }
		if
		:: (asleep & BIT(c)) == 0
#ifdef NAP
		:: d_step { (asleep & BIT(c)) != 0 && NAP_HELPS -> asleep = asleep & ~BIT(c) }
#endif
		fi
	:: (looking & BIT(c)) == 0
	fi
}

/* slots.pxd: claim */
inline take_slot(st_) {
	s = 0;
	do
	:: s < S ->
		if
		:: d_step { ST(word[s]) == FREE && GEN(word[s]) < LAST ->
			g = GEN(word[s]); word[s] = WORD(g, st_, me) }
			break
		:: else -> s++
		fi
	:: else -> break
	od
}

/* recover_maker -- again: who has claim h is dead, and recovered by now */
inline recover_maker() {
	if
	:: d_step { h != 0 && IS_CLAIM(h) && lk[ROW(word[SLOT(h)])] == 0 -> t = ROW(word[SLOT(h)]); again = 1 }
		recover_row(t);
		t = 0
	:: else
	fi
}

/* names.pxd: find -- by a reader: never older than what somebody has found */
inline look() {
	d_step { there = KEEPS && THERE; least = found }
	find();
#ifdef M_CLAIM_BEFORE_OBJECT    /* who finds a claim waits, though there is an object */
	find_claim();
	if :: h -> e = 0 :: else fi;
#endif
	atomic {
		assert(!there || e != 0);
		assert(e == 0 || version[SLOT(e)] >= least);
		found = (e != 0 && version[SLOT(e)] > found -> version[SLOT(e)] : found);
		there = 0; least = 0
	}
}

/* claims.pxd: claim_name, claim_locked -- mine: the cell of the claim that we have made; or 0: e or h is in its way */
inline claim_name() {
	take_slot(WRITING);
	if
	:: s < S ->
		if :: is_hard -> hard[s] = 1 :: else fi;
#ifndef M_CLAIM_UNLOCKED        /* two claims of one name */
		lock();
#endif
		atomic { e = 0; h = 0 }
#ifndef M_NO_SECOND_LOOK        /* what was not there may be by now */
		find();
		find_claim();
#endif
		if
		:: (e != 0 && !replace) || (h != 0 && (hard[SLOT(h)] || !is_hard))
		:: else ->
			word[s] = WORD(g, CLAIMED, me);
			index(CELL(s, g));
			if
			:: indexed -> atomic { assert(replace || !THERE); mine = CELL(s, g); indexed = 0 }
			:: else
			fi
		fi;
#ifndef M_CLAIM_UNLOCKED
		unlock();
#endif
		if
		:: mine == 0 -> d_step { word[s] = WORD(g + 1, FREE, 0); hard[s] = 0 }
		:: else
		fi
	:: else
	fi;
	d_step { e = 0; k = 0; s = 0; g = 0 }
}

/* claims.pxd: give_up, give_up_to_views -- the word, then the cell, then those who wait are told */
inline give_up(e_) {
	d_step { word[SLOT(e_)] = WORD(EGEN(e_) + 1, FREE, 0); hard[SLOT(e_)] = 0 }
	unindex(e_)
}

/* get_or_put, and create(claim=True), as far as the claim; without one, there is an object or the name is refused */
inline get_or_claim() {
	do
	:: true ->
#ifndef M_READ_LATE
		looking = looking | BIT(c);                     /* `changes` is read before the look */
#endif
		look();
		find_claim();
#ifdef M_READ_LATE
		looking = looking | BIT(c);
#endif
		if
		:: e != 0 && !replace -> break
		:: (e == 0 || replace) && h != 0 && (!is_hard || hard[SLOT(h)]) ->
			recover_maker();
			if
			:: again -> again = 0
			:: !again && is_hard -> break
			:: else -> sleep()
			fi
		:: else ->
			claim_name();
			if
			:: mine -> break
			:: mine == 0 && h == 0 -> break         /* no slot, or an object */
			:: else
			fi
		fi
	od;
	atomic { looking = looking & ~BIT(c); e = 0; h = 0; k = 0 }
}

/* publication.pxd: publish -- of slot s, under our own claim or none; taken: the name is, or another has claimed it hard */
inline publish() {
	do
	:: true ->
		lock();
		find();
		if
		:: mine != CELL(s, g) -> find_claim()
		:: else
		fi;
		if
		:: e != 0 && !replace -> taken = 1
#ifndef M_OVER_HARD             /* a hard claim is passed like any other */
		:: d_step { (e == 0 || replace) && h != 0 && h != mine && IS_CLAIM(h) && hard[SLOT(h)] -> taken = 1 }
#endif
		:: else -> publish_locked(); announce()
		fi;
		unlock();
		if
		:: taken && h != 0 && h != mine -> recover_maker()
		:: else
		fi;
		if
		:: again -> d_step { again = 0; taken = 0; h = 0 }
		:: else -> break
		fi
	od;
	if
	:: taken && mine != CELL(s, g) -> word[s] = WORD(g + 1, FREE, 0)
	:: !taken && e != 0 -> reap_condemned(SLOT(e))
	:: else
	fi
}

#ifdef FORK
/* fork.pxd: prepare_child -- what the child has from its parent is what it believes */
inline fork() {
	atomic { lk[2] == 0 -> lk[2] = c + 1 }
	if
	:: state[2] -> recover_locked(2)
	:: else
	fi;
	state[2] = 1;
	d_step { lk[2] = N; runs[2] = 1; born = mine; child_row = 3 }
}
#endif

/* a factory or a writer at its work */
inline work() {
	d_step {
		assert(mine == 0 || is_hard || making == 0);
		making = making | (mine != 0 && !is_hard -> BIT(c) : 0)
	}
#ifdef FORK
	if
	:: c == 0 && child_row == 0 -> fork()
	:: true
	fi
#endif
}

/* put; or what follows on a claim: a hard one's slot is the object's */
inline finish() {
	if
	:: true ->
#ifdef M_CLAIM_FIRST            /* it lets go of the claim, then publishes */
		if :: mine != 0 && !is_hard -> give_up(mine) :: else fi;
#endif
		if
		:: is_hard -> d_step { s = SLOT(mine); g = EGEN(mine) }
		:: !is_hard -> take_slot(WRITING)
		fi;
		if
		:: s < S -> publish(); assert(!taken || !is_hard)
		:: else
		fi
	:: mine != 0                /* the factory raises: its caller gets that, another takes over; or the writer gives up */
	fi;
	if
	:: mine != 0 && IS_CLAIM(mine) ->
		making = making & ~BIT(c);
#if defined(M_RAISE_SILENT)     /* and nobody is told */
		d_step { word[SLOT(mine)] = WORD(EGEN(mine) + 1, FREE, 0); hard[SLOT(mine)] = 0 }
#else
		give_up(mine)
#endif
	:: else -> making = making & ~BIT(c)
	fi
}

/* another name is published */
inline index_other() {
	k = 0;
	do
	:: k < CELLS ->
		if
		:: d_step { !LIVE(k) -> seen = cells[k] }
			if
			:: d_step { cells[k] == seen -> cells[k] = FOREIGN } break
			:: else
			fi
		:: else
		fi;
		k++
	:: else -> break
	od
}

inline forget() {
	d_step {
		s = 0; g = 0; e = 0; k = 0; h = 0; j = 0; r = 0; w = 0; t = 0; op = 0; mine = 0; seen = 0; my_s = 0; my_g = 0; least = 0;
		ok = 0; indexed = 0; moved = 0; there = 0; taken = 0; again = 0; is_hard = 0; replace = 0
	}
}

proctype Process(byte c) {
	byte me, s, g, e, k, h, j, r, w, t, n, op, mine, seen, my_s, my_g, least;
	bit ok, indexed, moved, there, taken, again, is_hard, replace;
#ifdef FORK
	if
	:: c == 2 ->
end:		d_step { child_row != 0 -> me = 2; mine = born }
		/* it comes back from the work that its parent was at: its row is not the claim's */
#ifdef M_CHILD_LETS_GO          /* the child ends its parent's claim */
		give_up(mine);
#endif
#ifdef M_CHILD_PUBLISHES        /* the child publishes under its parent's claim, and ends it */
		goto returns;
#endif
		forget();
#ifdef IDLE
		n = K;
#endif
		goto lives
	:: else
	fi;
#endif
reborn:
	{
		/* recovery.pxd: enter; process_table.pxd: lock_row, join_row */
		atomic {
			lk[c] == 0 && MAY_JOIN -> me = c; lk[me] = c + 1;
#ifdef ALIKE
			joined++
#endif
		}
		if
		:: state[me] -> recover_locked(me)
		:: else
		fi;
		state[me] = 1;
lives:
		do
		:: n < K ->
			atomic {
				n++;
				if
				:: DOES(MAKE) -> op = MAKE
				:: DOES(PUT) -> op = PUT
				:: DOES(REPLACE) -> op = REPLACE; replace = 1
				:: DOES(HARD) -> op = HARD; is_hard = 1
				:: DOES(RENEW) -> op = RENEW; is_hard = 1; replace = 1
				:: DOES(OTHER) -> op = OTHER
				:: DOES(REMOVE) && ST(word[0]) == SEALED -> op = REMOVE; s = 0
				:: DOES(REMOVE) && ST(word[1]) == SEALED -> op = REMOVE; s = 1
				:: DOES(REMOVE) && ST(word[2]) == SEALED -> op = REMOVE; s = 2
				:: DOES(RECOVER) && state[0] && lk[0] == 0 -> op = RECOVER; t = 0
				:: DOES(RECOVER) && state[1] && lk[1] == 0 -> op = RECOVER; t = 1
				:: else
				fi
			}
			if
			:: (op & (MAKE | HARD | RENEW)) != 0 -> get_or_claim()
			:: op == REMOVE -> remove()
			:: op == OTHER -> index_other()
			:: op == RECOVER -> recover_row(t)
			:: else
			fi;
			if
			:: mine != 0 || (op & (PUT | REPLACE)) != 0 ->
				work();
returns:			finish()
			:: else
			fi;
			forget()
		:: MAY_LEAVE ->
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
#if !defined(FORK) && !defined(GONE)
			:: goto reborn  /* a new process takes its place */
#endif
			:: runs[c] = 0; done++; n = 0
			fi
		}
	}
}

proctype Killer() {
end:	do
	:: kill(0)
	:: kill(1)
#if N > 2
	:: kill(2)
#endif
	:: atomic { deaths < CR -> deaths = CR }        /* no more of them */
	od
}

proctype Monitor() {
end:	atomic { ((OBJECT(0) && OBJECT(1)) ||
	         (CLAIM(0) && CLAIM(1) && hard[SLOT(cells[0])] == hard[SLOT(cells[1])])) -> assert(false) }
}

/* recovery.pxd: recover_dead -- when all is quiet; then nothing may be left over */
proctype Last() {
	byte c, me, s, g, e, k, h, j, r, w, t, seen, my_s, my_g, mine;
	bit ok, indexed, moved;
	do
	:: atomic { ENDED -> c = N; t = 0 }
		break
#ifdef PASSER                   /* somebody comes by, too, once nothing else goes on */
	:: atomic { !ENDED && (DEAD(0) || DEAD(1) || (N > 2 && DEAD(N - 1))) && timeout ->
		c = N; t = (DEAD(0) -> 0 : (DEAD(1) -> 1 : 2)); me = t }
		recover_row(t)
#endif
	od;
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
	byte i;
	atomic {
		do
#ifdef FORK
		:: i < N - 1 -> runs[i] = 1; run Process(i); i++
		:: i == N - 1 -> run Process(i); i++
#else
		:: i < N -> runs[i] = 1; run Process(i); i++
#endif
		:: else -> break
		od;
		run Killer(); run Monitor(); run Last()
	}
}
