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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::Memory;
    use super::*;

    fn columns(entity: &str, other: &str) -> Option<Vec<String>> {
        let roles = format!("{{event_type: /type, event_time: /at, idempotency_key: /id{entity}}}");
        let schema = "type: object, properties: {type: {type: string}, at: {type: string, format: date-time}, \
                      id: {type: string}, user: {type: string, x-penstock-column: who}, buyer: {type: string}, \
                      of: {type: object, properties: {id: {type: string}}}}";
        let text =
            format!("name: c\nroles: {roles}\nevents:\n  a: {{v1: {{{schema}}}}}\n  b: {{v1: {{{schema}}}{other}}}\n");
        Contract::from_text(&text, Path::new("c.yaml")).unwrap().entity_columns()
    }

    #[test]
    fn the_columns_that_tell_entities_apart() {
        let named = |columns: &[&str]| Some(columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        assert_eq!(columns(", entity: /buyer", ""), named(&["entity", "buyer"]));
        assert_eq!(columns(", entity: /user", ""), named(&["entity", "who"]), "by the name of the column");
        assert_eq!(columns(", entity: /of/id", ""), named(&["entity"]), "no column of its own");
        assert_eq!(columns(", entity: [/user]", ""), named(&["entity"]), "a composite");
        assert_eq!(columns(", entity: /buyer", ", roles: {entity: /user}"), named(&["entity"]), "two columns");
        assert_eq!(columns("", ", roles: {entity: /user}"), None, "a type without an entity");
    }

    #[test]
    fn the_number_is_settled_by_whoever_is_first() {
        let store = Memory::default();
        let of = |shards| Journal::new(&store, "p").identity(shards, || [0; 16], 0).unwrap();
        assert_eq!(of(Some(2)).shards, Some(2));
        let identity = of(Some(3));
        assert!(agree(&identity, Some(Shard { number: 2, of: 2 })).is_ok());
        for other in [None, Some(Shard { number: 1, of: 3 })] {
            assert!(agree(&identity, other).unwrap_err().to_string().contains("in 2 shards"), "{other:?}");
        }
        let logs: Vec<_> = journals(&store, "p").unwrap().iter().map(|j| j.log().to_owned()).collect();
        assert_eq!(logs, ["p/0001", "p/0002"]);
        assert_eq!(journals(&store, "q").unwrap()[0].log(), "q", "what never ran has one");
    }
}
