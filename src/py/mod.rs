//! The bindings: what Python sees of the engine. They convert, and nothing more; every call goes through [`gate`].

mod broker;
mod calls;
mod contract;
mod dedup;
mod entries;
mod errors;
mod gate;
mod generate;
mod lake;
mod logs;
mod memory;
#[cfg(feature = "kafka")]
mod producer;
mod scd2;
mod sessions;
mod sink;
mod stream;
mod table;
mod transform;
mod windows;

use pyo3::prelude::*;

/// The engine of Penstock. The public package is `penstock`; this module may change at any time.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::broker::broker;
    #[pymodule_export]
    use super::contract::{Contract, contract_diff, validate};
    #[pymodule_export]
    use super::dedup::deduplicate;
    #[pymodule_export]
    use super::entries::{backfill, compact, manifest, replay, reset, retention};
    #[pymodule_export]
    use super::generate::generate;
    #[pymodule_export]
    use super::lake::{LakeObjects, read_lake, write_parquet};
    #[pymodule_export]
    use super::logs::log_level;
    #[pymodule_export]
    use super::memory::give_back_large_blocks;
    #[cfg(feature = "kafka")]
    #[pymodule_export]
    use super::producer::{EmbeddedKafka, produce};
    #[pymodule_export]
    use super::scd2::{History, Merge, scd2_merge, scd2_point};
    #[pymodule_export]
    use super::sessions::sessionize;
    #[pymodule_export]
    use super::stream::{audit, failpoints, inspect, lake_log, lake_shards, pass_failpoint, run_pipeline, state_table};
    #[pymodule_export]
    use super::table::Table;
    #[pymodule_export]
    use super::windows::aggregate_windows;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::logs::listen();
        super::calls::listen(module)?;
        module.add(
            "FEATURES",
            [("python", true), ("kafka", cfg!(feature = "kafka")), ("s3", cfg!(feature = "s3"))]
                .iter()
                .filter_map(|(name, there)| there.then_some(*name))
                .collect::<Vec<_>>(),
        )?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
