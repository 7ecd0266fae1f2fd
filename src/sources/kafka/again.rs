//! Reading planned ranges again.

use std::time::Instant;

use rdkafka::types::RDKafkaErrorCode as Code;

use super::reader::{Key, Limit, Reader};
use super::{Kafka, TURN_BYTES, client, trouble};
use crate::error::Result;
use crate::events::RawEvents;
use crate::sources::Range;

impl<'a> Kafka<'a> {
    /// Reads one planned range again with a reader of its own.
    pub(super) fn read_again(
        &mut self,
        reader: &mut Reader<'a>,
        key: &Key,
        range: &Range,
        arrival: i64,
        each: &mut dyn FnMut(RawEvents) -> Result<()>,
    ) -> Result<()> {
        let mut since = Instant::now();
        let mut position = range.from;
        while position < range.to {
            let limit = Limit { until: range.to, bytes: TURN_BYTES, events: usize::MAX, arrival, live: false };
            let taken = reader.take(key, &limit)?;
            if let Some(failure) = &taken.failure {
                match failure.code {
                    Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                        let (low, end) = self.ends_of(key)?;
                        if low <= position {
                            return Err(trouble::beyond_end(&key.0, key.1, range.to, end));
                        }
                        let gone = Range { from: position, to: low.min(range.to), ..range.clone() };
                        return Err(trouble::gone_from_plan(&gone, range));
                    }
                    Code::LogTruncation => return Err(trouble::beyond_end(&key.0, key.1, range.to, position)),
                    _ => self.failed(key, failure)?,
                }
            }
            if taken.position > position {
                position = taken.position;
                since = Instant::now();
                reader.connection.context().answered();
                taken.pieces.into_iter().try_for_each(&mut *each)?;
                continue;
            }
            reader.wait(key, client::SLICE);
            if reader.at_end(key) && since.elapsed() >= self.settings.give_up {
                return Err(trouble::beyond_end(&key.0, key.1, range.to, position));
            }
            reader.connection.patience(since)?;
        }
        Ok(())
    }
}
