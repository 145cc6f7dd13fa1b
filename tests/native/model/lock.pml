/*
 * The stealable lock: a word in shared memory, 0 or row + 1 of its holder, whose life the kernel's lock
 * on that row's byte tells. It is the space lock; names' locks differ only in what is repaired.
 *
 * Modelled. N processes that take the lock, change what it guards in two steps, and let it go, up to K
 * times each over all their lives; R rows, which newcomers use again; CR kills between any two steps,
 * also of who recovers. Waiters ask the kernel whether the holder lives, and recover its row.
 *
 * Left out. ERR_HELD, ERR_BUSY: here one waits for ever for a stopped holder. What a repair does: one mark says
 * that work is half done, and the repair takes two steps.
 *
 * Checked. Two living processes are never inside at once; nobody inside, nor who recovers, meets half
 * done work that it did not come to repair; nobody waits for ever.
 */
#ifndef N
#define N 2
#endif
#ifndef R
#define R N
#endif
#ifndef K
#define K 2
#endif
#ifndef CR
#define CR 2
#endif

byte word; bit dirty; byte mends;    /* mends: process + 1 that is at the repair */
bit state[R];
byte lk[R];                     /* the kernel's: process + 1 that has the row's byte locked */
bit inside[N]; bit runs[N]; bit dead[N]; byte deaths;

#if N == 2
#define INSIDE (inside[0] + inside[1])
#else
#define INSIDE (inside[0] + inside[1] + inside[2])
#endif

/* lock.pxd: unlock */
inline unlock() { word = 0 }

/* rebuild.pxd: rebuild -- may be cut short, and done again */
inline rebuild() {
	d_step { assert(INSIDE == 0 && mends == 0); mends = c + 1 }
#ifndef M_NO_REPAIR             /* the lock is let go, and what it guards stays half done */
	dirty = 0;
#endif
	mends = 0
}

/* recovery.pxd: recover_locked, free_row; the dead row's kernel lock is ours */
inline recover_locked(r_) {
#ifdef M_FREE_ROW_FIRST         /* H12: then the recoverer dies, and the lock's word names a row that is free */
	state[r_] = 0;
#endif
#ifndef M_FORGET_LOCK           /* H17: the row is used again, and waiters think that the holder lives */
	if
	:: word == r_ + 1 ->
#ifdef M_UNLOCK_FIRST           /* others come in before the repair */
		unlock();
		rebuild()
#else
		rebuild();
		unlock()
#endif
	:: else
	fi;
#endif
#ifndef M_FREE_ROW_FIRST
	state[r_] = 0
#endif
}

/* recovery.pxd: recover_row -- of ERR_DEAD: recovery.pxd: retry_after_dead_blocker */
inline recover_row(r_) {
#ifdef M_RECOVER_UNLOCKED       /* H11: it was dead when we asked */
	if
	:: state[r_] -> recover_locked(r_)
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

/* lock.pxd: lock */
inline lock() {
	do
	:: d_step { word == 0 -> word = me + 1 } break
	:: d_step { word != 0 -> t = word - 1 }
		if
		:: lk[t] == 0 ->        /* system.pxd: byte_is_locked */
#ifdef M_STEAL                  /* H17: asked, then taken over without the dead row's kernel lock */
			if
			:: d_step { word == t + 1 -> word = me + 1 } dirty = 0; break
			:: else
			fi
#else
			recover_row(t)
#endif
		:: lk[t] != 0 && word != t + 1  /* let go: try again */
		fi;
		t = 0
	od
}

/* process_table.pxd: lock_row */
inline lock_row() {
	atomic {
		if
		:: lk[0] == 0 -> me = 0
		:: lk[1] == 0 -> me = 1
#if R > 2
		:: lk[2] == 0 -> me = 2
#endif
		fi;
		lk[me] = c + 1
	}
}

/* recovery.pxd: enter; process_table.pxd: join_row */
inline enter() {
#ifndef M_ENTER_NO_RECOVERY     /* H11: a newcomer takes a dead one's row, and so its lock, as it is */
	if
	:: state[me] -> recover_locked(me)
	:: else
	fi;
#endif
	state[me] = 1
}

proctype Process(byte c) {
	byte me, t, n;
again:
	{
		lock_row();
		enter();
		do
		:: n < K ->
			n++;
			lock();
			atomic { inside[c] = 1; assert(INSIDE == 1 && mends == 0 && !dirty) }
			dirty = 1;
			dirty = 0;
			d_step { inside[c] = 0; assert(word == me + 1) }
			unlock()
		:: true ->
			state[me] = 0;
			lk[me] = 0;
			break
		od;
		skip;
		d_step { runs[c] = 0; n = 0; me = 0 }
	} unless {
		atomic {
			dead[c] -> dead[c] = 0; me = 0; t = 0;
			if
			:: goto again   /* a new process takes its place */
			:: runs[c] = 0; n = 0
			fi
		}
	}
}

/* SIGKILL: the kernel drops the row locks */
inline kill(c) {
	atomic {
		runs[c] && !dead[c] && deaths < CR -> deaths++; dead[c] = 1; inside[c] = 0; x = 0;
		if :: mends == c + 1 -> mends = 0 :: else fi;
		do
		:: x < R -> if :: lk[x] == c + 1 -> lk[x] = 0 :: else fi; x++
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

init {
	byte i;
	atomic {
		do
		:: i < N -> runs[i] = 1; run Process(i); i++
		:: else -> break
		od;
		run Killer()
	}
}
