/*
 * Waiting for a name: a futex word that says that something changed, and beside it a deadline until which
 * somebody may sleep on it, among processes that may be killed at any moment.
 *
 * Modelled. One name, its lock, and the words of its stripe: `changes`, which comes round after PASSES, and
 * `awake_until`. WAITERS processes, each of which wants an object other than the one that it knows;
 * PUBS that publish one each, in place of the one that is there. The kernel's part: FUTEX_WAIT compares and
 * queues in one step; a wake takes those that are queued; a sleep ends at its time. A clock ticks T times,
 * and after that a sleeper wakes by itself if that helps; with T=0 no sleep ever ends by itself. With ONE,
 * who waits sleeps on the word that stands for all names, which changes only if somebody may sleep on it:
 * as the one for room does. CR kills between any two steps, also of who recovers; with PASSER, somebody
 * comes by and recovers the dead.
 *
 * Left out. What a publisher does to slots (publish.pml). Deletes: nobody waits for one, and their
 * announcement is the same. That the clock is coarse: a deadline has two ticks to spare.
 *
 * Checked. When a publisher is through, nobody sleeps for longer whom its object would serve. When all is
 * quiet, nobody does, whoever died.
 *
 * Each M_ breaks one rule, and the checks must see it. M_REGISTER_LATE breaks nothing without ONE: the
 * word changes for everybody, and the kernel's compare sees that. With ONE it loses wake-ups.
 */
#ifndef WAITERS
#define WAITERS 2
#endif
#ifndef PUBS
#define PUBS 1
#endif
#ifndef CR
#define CR 0
#endif
#ifndef T
#define T 0
#endif
#ifdef M_WRAP                   /* it comes round while a waiter is about to sleep */
#define PASSES 2
#else
#define PASSES 8
#endif
#define N (WAITERS + PUBS)
#define BIT(c_) (1 << (c_))

byte there;                     /* which object the name leads to; 0: none */
byte changes; byte awake_until; byte name_lock;
byte now = 1;
byte asleep;                    /* who is in the kernel's queue */
byte ends[WAITERS];              /* when its sleep ends */
bit state[N];
byte lk[N];                     /* the kernel's: process + 1 that has the row's byte locked */
bit dead[N]; bit ended[N]; byte deaths;

/* the second waiter has the first object already, and naps longer */
#define KNOWN(c_) (c_)
#define NAP(c_) (1 + (c_))
#define GOOD(c_) (there > KNOWN(c_))
#define SLEEPS_ON(c_) ((asleep & BIT(c_)) && GOOD(c_) && now < ends[c_])
#if T == 0 || defined(M_NO_NAP) /* nobody tells the sleepers of a publisher that died before its wake */
#define IS_OVER(c_) false
#else
#define IS_OVER(c_) (now >= ends[c_] || (now > T && GOOD(c_)))
#endif

/* waiting.pxd: wake_sleepers */
inline wake_sleepers() {
	if
	:: d_step { until != 0 && until >= now -> until = 0 }
#ifdef M_WAKE_ONE               /* the one that is woken may wait for something else, or die */
		if
		:: d_step { asleep & 1 -> asleep = asleep & ~1 }
		:: d_step { asleep & 2 -> asleep = asleep & ~2 }
		:: asleep == 0
		fi
#else
		asleep = 0
#endif
	:: d_step { until != 0 && until < now -> skip }
#ifdef M_CLEAR_BLIND            /* whoever has registered meanwhile is forgotten */
		awake_until = 0; until = 0
#else
		d_step { if :: awake_until == until -> awake_until = 0 :: else fi; until = 0 }
#endif
	:: until == 0
	fi
}

/* waiting.pxd: announce; with ONE waiting.pxd: announce_any, announce_room */
inline announce() {
#if defined(ONE)
#ifndef M_LOOK_FIRST
	until = awake_until;
#endif
	if
	:: until != 0 -> changes = (changes + 1) % PASSES; until = awake_until; wake_sleepers()
	:: else
	fi
#else
	changes = (changes + 1) % PASSES;
	until = awake_until;
	wake_sleepers()
#endif
}

/* recovery.pxd: recover_row, recover_locked, release_locks -- whatever the dead one has locked: a stripe is
 * told if somebody may sleep on it */
inline recover_row(r_) {
	if
	:: d_step { lk[r_] == 0 -> lk[r_] = c + 1 }
		if
		:: state[r_] ->
#ifndef M_RECOVER_SILENT        /* recovery lets go of locks, and wakes nobody */
			announce();
#endif
			if
			:: name_lock == r_ + 1 -> name_lock = 0
			:: else
			fi;
			state[r_] = 0
		:: else
		fi;
		lk[r_] = 0
	:: else
	fi
}

/* lock.pxd: lock -- of ERR_DEAD: recovery.pxd: retry_after_dead_blocker */
inline lock() {
	do
	:: d_step { name_lock == 0 -> name_lock = c + 1 } break
	:: d_step { name_lock != 0 && lk[name_lock - 1] == 0 -> t = name_lock - 1 }
		recover_row(t);
		t = 0
	od
}

/* publication.pxd: publish -- the index, then the word, then the wake */
inline publish() {
	lock();
#ifdef M_ANNOUNCE_FIRST         /* word and wake before the index */
	announce();
#endif
#ifdef M_LOOK_FIRST             /* the deadline is looked at before the index changes */
	until = awake_until;
#endif
	there++;
#ifndef M_ANNOUNCE_FIRST
	announce();
#endif
	assert(!SLEEPS_ON(0) && !SLEEPS_ON(1));
	name_lock = 0
}

/* waiting.pxd: register_sleeper */
inline register_sleeper() {
	until = now + NAP(c);
#ifdef M_DEADLINE_STORE         /* the deadline of another, later one is lost */
	awake_until = until
#else
	d_step { if :: awake_until < until -> awake_until = until :: else fi }
#endif
}

/* take_nap */
inline take_nap() {
	if
#ifdef M_RELATIVE               /* who was stopped before it sleeps longer than others know of */
	:: d_step { changes == seen -> ends[c] = now + NAP(c); asleep = asleep | BIT(c); seen = 0; until = 0 }
#else
	:: d_step { changes == seen -> ends[c] = until; asleep = asleep | BIT(c); seen = 0; until = 0 }
#endif
endnap:		if
		:: d_step { !(asleep & BIT(c)) -> ends[c] = 0 }
		:: d_step { (asleep & BIT(c)) && IS_OVER(c) -> asleep = asleep & ~BIT(c); ends[c] = 0 }
		fi
	:: d_step { changes != seen -> seen = 0; until = 0 }
	fi
}

proctype Publisher(byte c) {
	byte t, until;
	{ publish(); state[c] = 0; d_step { lk[c] = 0; ended[c] = 1 } } unless { dead[c] }
}

proctype Waiter(byte c) {
	byte seen, until;
	{
	do
	:: true ->
		/* begin_nap */
#ifndef M_REGISTER_LATE
		register_sleeper();
#endif
#ifndef M_READ_LATE
		seen = changes;
#endif
		if
		:: GOOD(c) -> break
		:: else
		fi;
#ifdef M_REGISTER_LATE          /* who changes something after the look sees nobody */
		register_sleeper();
#endif
#ifdef M_READ_LATE              /* the word is read after the look */
		seen = changes;
#endif
		take_nap()
	od;
	state[c] = 0;
	d_step { lk[c] = 0; ended[c] = 1; seen = 0; until = 0 }
	} unless { dead[c] }
}

proctype Clock() {
	do
	:: now <= T -> now++
	:: now > T -> break
	od
}

/* SIGKILL: the kernel drops the row locks, and takes it out of its queue */
inline kill(v_) {
	atomic {
		v_ < N && !dead[v_] && !ended[v_] && deaths < CR -> deaths++; dead[v_] = 1; asleep = asleep & ~BIT(v_); i = 0;
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
	:: kill(2)
	:: kill(3)
	:: atomic { deaths < CR -> deaths = CR }        /* no more of them */
	od
}

/* recovery.pxd: recover_dead -- when nothing else goes on */
proctype Last() {
	byte c = N, t, until;
#ifdef PASSER
	do
	:: timeout ->
		if
		:: t < N ->
			if :: state[t] && lk[t] == 0 -> recover_row(t) :: else fi;
			t++
		:: else -> t = 0; break
		fi
	od;
#endif
	timeout;
	d_step {
		do
		:: t < WAITERS -> assert(dead[t] || ended[t] || !GOOD(t)); t++
		:: else -> break
		od
	}
end:	false
}

init {
	byte i;
	atomic {
		do
		:: i < N ->
			lk[i] = i + 1; state[i] = 1;
			if
			:: i < WAITERS -> run Waiter(i)
			:: else -> run Publisher(i)
			fi;
			i++
		:: else -> break
		od;
#if T > 0
		run Clock();
#endif
		run Killer(); run Last()
	}
}
