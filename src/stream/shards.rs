//! Shards: a pipeline in several parts that run by themselves, each over its own part of the partitions, with a log, a
//! state and terms of its own. What the pipeline keeps for ever, and its contracts, they share.
//!
//! Nothing passes between shards. So duplicates, sessions and windows must not cross them: all events of one entity, and
//! of one key, come through one partition, and windows group by the entity.

use super::journal::Journal;
use super::log::Identity;
use super::spec::{PipelineSpec, Shard, SourceSpec};
use super::store::Store;
use crate::contract::Contract;
use crate::error::{Error, Result};

/// The most shards: their numbers have four digits in the names of files.
const MOST: u32 = 9_999;

/// Refuses a pipeline that gives other rows in shards than as a whole.
///
/// # Errors
/// [`Error::Settings`] naming the setting.
pub fn check(spec: &PipelineSpec, contract: &Contract) -> Result<()> {
    let Some(shard) = spec.shard else { return Ok(()) };
    if shard.number == 0 || shard.number > shard.of || shard.of > MOST {
        let reason = format!("{}/{} is no shard; write number/of, from 1/4 to 4/4", shard.number, shard.of);
        return Err(Error::settings("shard", reason));
    }
    if matches!(spec.source, SourceSpec::Files(_)) {
        return Err(Error::settings(
            "shard",
            "takes a part of the partitions of Kafka, and this pipeline reads files; run it without --shard",
        ));
    }
    if spec.keyed_by.as_deref() != Some("entity") {
        return Err(Error::settings(
            "source.keyed_by",
            "--shard needs it, for a shard sees a part of the partitions alone, and duplicates and sessions must not cross \
             them. If all events of one entity, and of one key, come through one partition, write source.keyed_by: entity; \
             else run without --shard",
        ));
    }
    let Some(columns) = contract.entity_columns() else {
        return Err(Error::settings(
            "source.keyed_by",
            "says entity, and the contract names no entity for all its event types; give them the role, or run without \
             --shard",
        ));
    };
    for (at, windows) in spec.windows.iter().enumerate() {
        if !windows.by.iter().any(|column| columns.contains(column)) {
            return Err(Error::settings(
                format!("windows.{at}.by"),
                format!(
                    "windows '{}' hold events of more than one entity, which several shards would write each in part; add \
                     {} to it, or run without --shard",
                    windows.name,
                    columns.join(" or ")
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses another number of shards than the pipeline was made with.
///
/// # Errors
/// [`Error::Settings`] saying both.
pub fn agree(identity: &Identity, asked: Option<Shard>) -> Result<()> {
    let wanted = asked.map(|shard| shard.of);
    if identity.shards == wanted {
        return Ok(());
    }
    let name = &identity.name;
    let before = match identity.shards {
        None => format!("pipeline {name} was begun without shards, and goes on so"),
        Some(of) => format!("pipeline {name} was begun in {of} shards, and goes on so: --shard 1/{of} to {of}/{of}"),
    };
    Err(Error::settings(
        "shard",
        format!(
            "{before}. In another number its keys and sessions would lie in other logs; give it another name or lake, or \
             begin again with `penstock reset`"
        ),
    ))
}

/// The logs of a pipeline: one, or one for each shard.
///
/// # Errors
/// [`Error::Checkpoint`] when what the pipeline keeps for ever is damaged or too new.
pub fn journals<'a>(store: &'a dyn Store, pipeline: &str) -> Result<Vec<Journal<'a>>> {
    let whole = Journal::new(store, pipeline);
    Ok(match whole.existing_identity()?.and_then(|identity| identity.shards) {
        None => vec![whole],
        Some(of) => (1..=of).map(|number| Journal::of_shard(store, pipeline, number)).collect(),
    })
}
