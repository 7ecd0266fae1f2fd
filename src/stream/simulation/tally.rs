//! What really happened in the schedules: a proof that nothing was proved about nothing.

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often each kind of thing happened.
        #[derive(Debug, Clone, Default)]
        pub struct Tally { $($(#[$doc])* pub $name: u64,)* }

        impl Tally {
            /// Adds another's counts.
            pub fn add(&mut self, other: &Self) { $(self.$name += other.$name;)* }

            /// Name and count.
            pub fn counts(&self) -> Vec<(&'static str, u64)> { vec![$((stringify!($name), self.$name),)*] }
        }
    };
}

tally! {
    /// Schedules.
    schedules,
    /// Runs begun.
    runs,
    /// Runs that came to their end.
    finished,
    /// Commits.
    commits,
    /// Snapshots put.
    snapshots,
    /// States written whole, when there were some before.
    merges,
    /// Runs ended before an operation took effect.
    crashed_before,
    /// Runs ended after an operation took effect.
    crashed_after,
    /// Runs ended with a request on its way.
    crashed_in_flight,
    /// Requests that took effect after their sender had ended.
    landed_after_death,
    /// Runs ended while they read.
    crashed_reading,
    /// Operations that failed and took no effect.
    failed_before,
    /// Operations that failed and took effect.
    failed_after,
    /// Puts that took effect, and whose retry met its own object.
    lost_replies,
    /// Puts of several objects of which only some took effect.
    partial,
    /// Operations that took long, before or after they took effect.
    delayed,
    /// Reads that failed.
    failed_reading,
    /// Runs that were replaced by a newer one, and saw it.
    superseded,
    /// Writers that woke from an operation and were not the newest any more.
    zombies,
    /// Epochs planned before that were run again.
    rerun,
    /// Plans and commits that met those of another run.
    met_anothers,
    /// Partitions that were found while the pipeline ran.
    new_partitions,
    /// Runs that were told to stop, and finished the epoch in hand.
    stopped,
    /// Runs that were told to stop, and gave the epoch in hand up.
    interrupted,
    /// Contracts that changed between two runs.
    contract_changes,
    /// Compactions committed.
    compactions,
    /// Replays committed.
    replays,
    /// Compactions and replays that could not be done.
    refused,
    /// Epochs made void.
    voided,
    /// Epochs written into the database.
    sink_epochs,
    /// Epochs that the database held when they came again.
    sink_held,
    /// Transactions rolled back.
    sink_rolled_back,
    /// Transactions whose reply was lost.
    sink_lost_replies,
    /// Transactions that landed though their run had ended.
    sink_landed_after_death,
    /// Transactions of runs that the database knew not to be the newest.
    sink_superseded,
    /// Epochs that the database was told to forbid.
    sink_forbidden,
    /// Epochs that could not be made void because the database held them.
    sink_refused,
    /// Epochs that were found forbidden and not yet void.
    sink_given_up,
    /// Objects that no longer counted, removed.
    swept,
    /// Duplicates.
    duplicates,
    /// Late events.
    late,
    /// Rejected events.
    rejected,
    /// Events in Silver.
    silver,
    /// Schedules compared row for row with an undisturbed run.
    compared_rows,
    /// Schedules whose plans were run again, undisturbed, and gave the same bytes.
    compared_bytes,
    /// Objects overwritten with other bytes.
    overwritten,
}
