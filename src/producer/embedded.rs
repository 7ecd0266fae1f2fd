//! A broker inside this process, for demos: librdkafka's own mock cluster.
//!
//! It speaks Kafka's protocol on loopback, so that any client of this machine can connect. It holds everything in memory
//! and keeps at most 5 MiB of each partition, the newest: whoever produces must not run further ahead of whoever reads.

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

use crate::error::{Error, Result};

/// Says nothing: librdkafka warns of every mock cluster.
struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Silent {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A broker that goes when this is dropped.
pub struct Embedded {
    /// It has the cluster: the handle of the cluster itself may not move between threads.
    owner: BaseProducer<Silent>,
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
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1");
        Ok(Self { owner: config.create_with_context(Silent).map_err(failed)? })
    }

    fn cluster(&self) -> Result<MockCluster<'_, Silent>> {
        let found = self.owner.client().mock_cluster();
        found.ok_or_else(|| Error::Internal("the embedded broker is not there".into()))
    }

    /// Its address.
    ///
    /// # Errors
    /// [`Error::Internal`] where it is gone.
    pub fn bootstrap(&self) -> Result<String> {
        Ok(self.cluster()?.bootstrap_servers())
    }

    /// Makes a topic: this broker does not take such requests over the protocol.
    ///
    /// # Errors
    /// [`Error::Source`] where it is there already, or the name is none.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.cluster()?.create_topic(name, partitions, 1).map_err(|e| Error::source(name, e))
    }
}
