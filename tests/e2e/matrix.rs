//! The short form of the fault matrix: every fault once, and every operation more than once. `make
//! torture` plays all cells.

use taskpass_tests::faults::{Cell, Fault, Jump, Operation, Outcome};

/// One test for each cell, so that the name of a failing test shows the cell.
macro_rules! survives {
    ($($test:ident: $fault:ident $(($jump:ident))?, $operation:ident;)*) => {$(
        #[test]
        fn $test() {
            let fault = Fault::$fault $((Jump::$jump))?;
            play(Cell { fault, operation: Operation::$operation });
        }
    )*};
}

survives! {
    killed_while_it_attests: Killed, Attest;
    killed_while_it_starts: Killed, Start;
    killed_while_it_rotates: Killed, Rotate;
    power_cut_after_an_end: PowerCut, End;
    provider_down_while_it_issues: Down, Issue;
    provider_slow_while_it_renews: Slow, Renew;
    provider_hung_while_it_revokes: Hung, Revoke;
    answer_lost_while_it_issues: AnswerLost, Issue;
    answers_twice_while_it_issues: AnswerTwice, Issue;
    answers_twice_while_it_ends: AnswerTwice, End;
    wrong_answers_while_it_revokes: AnswerWrong, Revoke;
    storm_while_it_ends: Failing, End;
    disk_full_while_it_ends: DiskFull, End;
    disk_read_only_while_it_starts: DiskReadOnly, Start;
    ledger_torn_after_a_start: LedgerTorn, Start;
    ledger_damaged_after_a_renewal: LedgerDamaged, Renew;
    index_damaged_after_an_end: IndexDamaged, End;
    index_removed_after_an_issue: IndexRemoved, Issue;
    clock_a_second_ahead_while_it_renews: ClockForwards(Second), Renew;
    clock_a_minute_ahead_while_it_issues: ClockForwards(Minute), Issue;
    clock_ahead_while_it_issues: ClockForwards(Hour), Issue;
    clock_a_day_ahead_while_it_ends: ClockForwards(Day), End;
    clock_years_ahead_while_it_attests: ClockForwards(Years), Attest;
    clock_a_second_behind_while_it_starts: ClockBackwards(Second), Start;
    clock_a_minute_behind_while_it_ends: ClockBackwards(Minute), End;
    clock_behind_while_it_revokes: ClockBackwards(Hour), Revoke;
    clock_a_day_behind_while_it_renews: ClockBackwards(Day), Renew;
    clock_years_behind_while_it_rotates: ClockBackwards(Years), Rotate;
    clock_twice_too_fast_while_it_issues: ClockFast, Issue;
    clock_ahead_then_right_while_it_ends: ClockAheadThenRight, End;
    client_killed_while_it_issues: ClientKilled, Issue;
    client_stopped_while_it_renews: ClientStopped, Renew;
    client_partitioned_while_it_starts: ClientPartitioned, Start;
    down_longer_than_the_authority_lives: LongDowntime, Attest;
}

fn play(cell: Cell) {
    match cell.run(false) {
        Outcome::Ran(verdict) => {
            println!("{cell}: {verdict}");
            let complaints: Vec<&String> = verdict.complaints().collect();
            assert!(complaints.is_empty(), "{cell}: {complaints:#?}");
        }
        // `make torture` counts it as not played.
        Outcome::NotHere(why) => println!("{cell}: not on this machine: {why}"),
    }
}
