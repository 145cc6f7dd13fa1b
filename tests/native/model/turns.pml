/*
 * Waiting for room in turns: one of all that wait has the turn, and the others let it try alone, so that
 * what is large comes in behind many that are small; among processes that may be killed at any moment.
 *
 * Modelled. Process 0 wants all of ROOM, the others one piece each. Each waits for it, gives it back, and
 * comes again, up to K times; process 0 may give up. With BATCH its try takes one piece after the other, and
 * gives back what it has when there is none left; with NEVER it wants more than all. CR kills between any two steps, also of who recovers; what the dead one had
 * comes back when its row is recovered. The word and the deadline of room are those of wait.pml, so that
 * here each announcement wakes whoever sleeps. No sleep ends by itself, but that of a batch, which begins after
 * the try: it would be woken by what it gives back itself. With PASSER, somebody comes by and
 * recovers the dead.
 *
 * Left out. Puts that do not wait look at no turn. Who has waited for a second tries all the same. The
 * threads of a process. That a row is used again (a turn may then be taken from a living process, which
 * waits for another one).
 *
 * Checked. While process 0 has the turn, each of the others gets a piece at most once: the one that it was
 * about to take before. When all is quiet, nobody sleeps; and all of the room is back.
 */
#ifndef N
#define N 3
#endif
#ifndef K
#define K 2
#endif
#ifndef CR
#define CR 0
#endif
#define ROOM 2
#define BIT(c_) (1 << (c_))
#ifdef NEVER
#define ALL (ROOM + 1)
#else
#define ALL ROOM
#endif
#define WANTED(c_) ((c_) == 0 -> ALL : 1)
#ifdef BATCH
#define IS_BATCH (c == 0)
#else
#define IS_BATCH false
#endif

byte room = ROOM; byte turn;
byte looking; byte asleep;      /* who has read the futex word and would find it unchanged; who sleeps at it */
byte has[N];                    /* pieces of each row */
bit state[N];
byte lk[N];                     /* the kernel's: process + 1 that has the row's byte locked */
bit dead[N]; byte deaths; byte done; byte overtaken;

/* waiting.pxd: announce_room */
inline announce_room() {
	looking = 0;
	asleep = 0
}

/* recovery.pxd: recover_locked, recover_row */
inline recover_row(r_) {
	if
	:: d_step { lk[r_] == 0 -> lk[r_] = c + 1 }
		if
		:: state[r_] ->
			d_step { room = room + has[r_]; has[r_] = 0 }
#ifndef M_TURN_KEPT             /* the dead one has it for ever */
			d_step { if :: turn == r_ + 1 -> turn = 0 :: else fi }
#endif
#ifndef M_RECOVER_SILENT        /* its room and its turn are free, and nobody is told */
			announce_room();
#endif
			state[r_] = 0
		:: else
		fi;
		lk[r_] = 0
	:: else
	fi
}

/* is_turn_of_others */
#ifdef M_TURN_KEPT
#define OTHERS_TURN (turn != 0 && turn != c + 1)
#else
#define OTHERS_TURN (turn != 0 && turn != c + 1 && lk[turn - 1] != 0)
#endif

/* take_turn -- ok: we have it */
inline take_turn() {
	d_step { t = turn; ok = (t == c + 1) }
	if
	:: ok || OTHERS_TURN
	:: else ->
		d_step { if :: turn == t -> turn = c + 1; ok = 1; if :: c == 0 -> overtaken = 0 :: else fi :: else fi }
	fi;
	t = 0
}

/* end_turn */
inline end_turn() {
	if
	:: turn == c + 1 ->
		d_step { if :: turn == c + 1 -> turn = 0 :: else fi }
#ifndef M_END_SILENT            /* the others sleep on, and nobody has the turn */
		announce_room()
#endif
	:: else
	fi
}

/* batches.pxi: try_to_begin -- all or none */
inline try_to_begin() {
	ok = 1;
	do
	:: ok && has[c] < ALL ->
		d_step { if :: room > 0 -> room--; has[c] = has[c] + 1 :: else -> ok = 0 fi }
	:: ok && has[c] == ALL -> break
	:: !ok && has[c] > 0 ->
		d_step { room++; has[c] = has[c] - 1 }
#ifndef M_BACK_SILENT           /* who looked meanwhile sleeps, beside what is free again */
		announce_room()
#endif
	:: !ok && has[c] == 0 -> break
	od
}

/* try_to_allocate -- ok: got it */
inline try_to_allocate() {
	if
	:: IS_BATCH -> try_to_begin()
	:: !IS_BATCH ->
		d_step {
			ok = 0;
			if
			:: room >= WANTED(c) -> room = room - WANTED(c); has[c] = WANTED(c); ok = 1;
				if :: turn == 1 && c != 0 && !dead[0] -> overtaken++; assert(overtaken < N) :: else fi
			:: else
			fi
		}
	fi
}

/* allocate_slot, wait_for_room; batches.pxi: wait_to_begin */
inline put() {
#ifdef M_TURN_IGNORED           /* who comes does not look at the turn of others */
	try_to_allocate();
#else
	if
	:: OTHERS_TURN -> ok = 0
	:: else -> try_to_allocate()
	fi;
#endif
	do
	:: ok -> break
	:: !ok ->
		looking = looking | BIT(c);     /* begin_nap */
		if
		:: IS_BATCH             /* has tried */
		:: !IS_BATCH ->
			take_turn();
			if
			:: ok -> try_to_allocate()
			:: else
			fi
		fi;
		if
		:: ok
		:: d_step { !ok && (looking & BIT(c)) != 0 -> looking = looking & ~BIT(c); asleep = asleep | BIT(c) }
			if
			:: (asleep & BIT(c)) == 0
			:: d_step { c == 0 && (asleep & BIT(c)) != 0 -> asleep = asleep & ~BIT(c) }
				if
				:: break                /* its time is over */
				:: IS_BATCH             /* its nap is */
				fi
			fi
		:: d_step { !ok && (looking & BIT(c)) == 0 -> skip }
		fi;
		if
		:: IS_BATCH && !ok ->
			take_turn();
			if
			:: ok -> try_to_allocate()
			:: else
			fi
		:: else
		fi
	od;
	ok = 0;
	looking = looking & ~BIT(c);
	end_turn()
}

proctype Process(byte c) {
	byte t, n; bit ok;
	{
		do
		:: n < K ->
			n++;
			put();
			if
			:: has[c] ->
				d_step { room = room + has[c]; has[c] = 0 }
				announce_room()
			:: else
			fi
		:: n == K -> break
		od;
		state[c] = 0;
		d_step { lk[c] = 0; done++ }
	} unless { atomic { dead[c] -> done++ } }
}

/* SIGKILL: the kernel drops the row locks */
inline kill(v_) {
	atomic {
		!dead[v_] && state[v_] && deaths < CR ->
		deaths++; dead[v_] = 1; looking = looking & ~BIT(v_); asleep = asleep & ~BIT(v_); i = 0;
		do
		:: i < N -> if :: lk[i] == v_ + 1 -> lk[i] = 0 :: else fi; i++
		:: else -> i = 0; break
		od
	}
}

proctype Killer() {
	byte i;
end:	do
	:: kill(0)
	:: kill(1)
#if N > 2
	:: kill(2)
#endif
	:: atomic { deaths < CR -> deaths = CR }        /* no more of them */
	od
}

#define DEAD(r_) (state[r_] && lk[r_] == 0)

/* recovery.pxd: recover_dead -- when nothing else goes on; then nothing may be left over */
proctype Last() {
	byte c = N, t;
	do
	:: atomic { done == N -> t = 0 } break
#ifdef PASSER
	:: atomic { done != N && (DEAD(0) || DEAD(1) || DEAD(N - 1)) && timeout -> t = (DEAD(0) -> 0 : (DEAD(1) -> 1 : N - 1)) }
		recover_row(t)
#endif
	od;
	do
	:: t < N ->
		if :: state[t] -> recover_row(t) :: else fi;
		t++
	:: else -> break
	od;
	assert(room == ROOM && turn == 0)
}

init {
	byte i;
	atomic {
		do
		:: i < N -> lk[i] = i + 1; state[i] = 1; run Process(i); i++
		:: else -> break
		od;
		run Killer(); run Last()
	}
}
