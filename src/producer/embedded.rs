//! A broker inside this process, for demos: librdkafka's own mock cluster.
//!
//! It speaks Kafka's protocol on loopback, so that any client of this machine can connect. It holds everything in memory
//! and keeps at most 5 MiB of each partition, the newest: whoever produces must not run further ahead of whoever reads.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::error::{Error, Result};

/// A broker that goes when this is dropped.
pub struct Embedded {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Embedded {
    /// The most that a partition keeps, in bytes as they were sent (compressed).
    pub const PARTITION_BYTES: u64 = 5 << 20;

    /// Starts one.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system gives no thread or no port.
    pub fn start() -> Result<Self> {
        let failed = |e| Error::Internal(format!("the embedded broker cannot be started: {e}"));
        Ok(Self { cluster: MockCluster::new(1).map_err(failed)? })
    }

    /// Its address.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Makes a topic: this broker does not take such requests over the protocol.
    ///
    /// # Errors
    /// [`Error::Source`] where it is there already, or the name is none.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.cluster.create_topic(name, partitions, 1).map_err(|e| Error::source(name, e))
    }
}
