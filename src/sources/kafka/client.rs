//! Clients of the cluster: their settings, what they say by the way, and how long they are waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::native::Client;
use super::settings::KafkaSettings;
use super::trouble;
use crate::error::{Error, Result};
use crate::librdkafka::{is_set, plain};
use crate::sources::Watch;

/// How long a wait lasts at a time, before it is looked whether to stop.
pub(super) const SLICE: Duration = Duration::from_millis(50);
/// A refusal that came so often is no accident (a broker that has just started knows its users a moment later),
const REFUSALS: u32 = 3;
/// or one that has stood for so long.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Memory for messages that were fetched and not yet read, over all partitions, in KiB.
const QUEUED_KBYTES: usize = 128 << 10;
/// So many messages of that kind, over all partitions: librdkafka takes some 400 bytes for each beside its own.
const QUEUED_MESSAGES: usize = 200_000;

/// For so long an answer is waited for before the question is asked again.
const QUESTION: Duration = Duration::from_secs(30);
/// For so long it is waited for the end of a client that reads.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// After so long without an answer it is told that the cluster is away, where it is.
const AWAY: Duration = Duration::from_secs(1);

/// What a client has said by its error callback: some things reach nobody else.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The password, or the user, is refused.
    refused: Option<(Instant, u32, String)>,
    /// TLS does not come about.
    tls: Option<(Instant, u32, String)>,
    /// Why no broker can be reached.
    unreachable: Option<String>,
    all_down: bool,
    fatal: Option<String>,
    /// Nobody may tell this client who coordinates its group.
    group_forbidden: bool,
    /// What was said last: it comes again with every attempt.
    last: Option<String>,
    /// Whether it was told that the cluster is away.
    told: bool,
}

/// What librdkafka calls when it has something to say.
pub(super) struct Context {
    said: Mutex<Said>,
    secrets: Vec<String>,
}

impl Context {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the user has no rights on the client's group.
    pub(super) fn group_forbidden(&self) -> bool {
        self.said().group_forbidden
    }

    /// A text without what must not be shown.
    fn clean(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    /// The cluster has answered: what was said before is past.
    pub(super) fn answered(&self) {
        *self.said() = Said::default();
    }
}

fn again(seen: &mut Option<(Instant, u32, String)>, reason: String) {
    let (since, times, _) = seen.take().unwrap_or_else(|| (Instant::now(), 0, String::new()));
    *seen = Some((since, times + 1, reason));
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.clean(message);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(target: "penstock::kafka", "{facility}: {message}");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "penstock::kafka", "{facility}: {message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "penstock::kafka", "{facility}: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = plain(&self.clean(reason));
        let mut said = self.said();
        if said.last.as_ref() != Some(&reason) {
            tracing::info!(target: "penstock::kafka", "{reason}");
            said.last = Some(reason.clone());
        }
        match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => again(&mut said.refused, reason),
            Some(Code::SSL) => again(&mut said.tls, reason),
            Some(Code::AllBrokersDown) => said.all_down = true,
            Some(Code::Fatal) => said.fatal = Some(reason),
            Some(Code::GroupAuthorizationFailed) => said.group_forbidden = true,
            Some(Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut | Code::RequestTimedOut) => {
                said.unreachable = Some(reason)
            }
            _ => {}
        }
    }
}

impl ConsumerContext for Context {}

/// A connection to the cluster, and how long it is waited for.
pub(super) struct Connection<'a> {
    pub(super) client: Arc<Client>,
    pub(super) brokers: String,
    /// For so long the cluster is waited for; none: for ever.
    give_up: Option<Duration>,
    watch: &'a dyn Watch,
}

impl<'a> Connection<'a> {
    /// A client that asks questions only.
    pub(super) fn questions(settings: &KafkaSettings, watch: &'a dyn Watch) -> Result<Self> {
        let mut config = base_config(settings);
        // A broker that hangs is given up soon, and another asked.
        if !is_set("socket.timeout.ms", settings.own.keys()) {
            config.set("socket.timeout.ms", "10000");
        }
        Self::new(settings, &config, watch)
    }

    /// A client that reads so many partitions.
    pub(super) fn reads(settings: &KafkaSettings, partitions: usize, watch: &'a dyn Watch) -> Result<Self> {
        let mut config = base_config(settings);
        let share = |all: usize, least: usize, most: usize| (all / partitions.max(1)).clamp(least, most).to_string();
        config.set("group.id", &settings.group);
        for (name, value) in [
            // What librdkafka would wait after a full queue: one second, in which nothing is read.
            ("fetch.queue.backoff.ms", "10".to_owned()),
            ("fetch.wait.max.ms", "100".to_owned()),
            ("max.partition.fetch.bytes", (4 << 20).to_string()),
            ("fetch.max.bytes", (64 << 20).to_string()),
            // Each partition has a queue of its own, so these are shares.
            ("queued.max.messages.kbytes", share(QUEUED_KBYTES, 1 << 10, 64 << 10)),
            ("queued.min.messages", share(QUEUED_MESSAGES, 1_000, 100_000)),
            ("isolation.level", "read_committed".to_owned()),
            ("check.crcs", "true".to_owned()),
        ] {
            if !is_set(name, settings.own.keys()) {
                config.set(name, value);
            }
        }
        // For so long the end of a client waits for a commit to the group that is on its way; it is told again later.
        if !["session.timeout.ms", "group.protocol"].iter().any(|name| is_set(name, settings.own.keys())) {
            config.set("session.timeout.ms", "4000");
        }
        for (name, value) in super::settings::FIXED {
            config.set(*name, *value);
        }
        Self::new(settings, &config, watch)
    }

    fn new(settings: &KafkaSettings, config: &ClientConfig, watch: &'a dyn Watch) -> Result<Self> {
        let secrets = settings.secrets.values().filter(|s| !s.is_empty()).cloned().collect();
        let context = Context { said: Mutex::default(), secrets };
        let client: BaseConsumer<Context> =
            config.create_with_context(context).map_err(|e| trouble::configuration(settings, &e))?;
        Ok(Self { client: Arc::new(client), brokers: settings.brokers.clone(), give_up: Some(settings.give_up), watch })
    }

    /// Lets the client say what it has to say.
    pub(super) fn listen(&self) {
        // Messages come by queues of their own, and what comes here goes to the context. Some events come as errors,
        // too; those have been told to the context before.
        while self.client.poll(Duration::ZERO).is_some() {}
    }

    /// Whether to go on waiting for the cluster, which has not answered `since` then.
    ///
    /// # Errors
    /// What stands in the way; [`Error::Interrupted`].
    pub(super) fn patience(&self, since: Instant) -> Result<()> {
        self.listen();
        let last = self.give_up.filter(|give_up| since.elapsed() >= *give_up);
        self.refusal(last.is_some())?;
        if since.elapsed() >= AWAY {
            self.warn_if_down();
        }
        match last {
            None => Ok(()),
            Some(waited) => {
                Err(trouble::unreachable(&self.brokers, waited, self.context().said().unreachable.as_deref()))
            }
        }
    }

    /// Warns, once an outage, that the cluster is away and waited for.
    pub(super) fn warn_if_down(&self) {
        if let Some(reason) = self.down() {
            self.warn_down(&reason);
        }
    }

    /// Whether no broker can be reached now, and why.
    pub(super) fn down(&self) -> Option<String> {
        let said = self.context().said();
        said.all_down.then(|| said.unreachable.clone().unwrap_or_else(|| "all brokers are down".to_owned()))
    }

    /// Warns, once an outage, that the cluster is away, for this reason.
    pub(super) fn warn_down(&self, reason: &str) {
        if !std::mem::replace(&mut self.context().said().told, true) {
            let place = format!("kafka {}", self.brokers);
            self.watch.warn("brokers_unreachable", &place, &format!("{reason}; trying again"));
        }
    }

    /// From now on the cluster is waited for, however long it is away.
    pub(super) fn wait_for_ever(&mut self) {
        self.give_up = None;
    }

    /// Whether the cluster is waited for however long it is away.
    pub(super) fn waits(&self) -> bool {
        self.give_up.is_none()
    }

    /// For so long an answer to one question is waited for before it is asked again.
    pub(super) fn question(&self) -> Duration {
        self.give_up.map_or(QUESTION, |give_up| give_up.min(QUESTION))
    }

    /// What no waiting mends; when there is no more waiting, whatever stands in the way.
    ///
    /// # Errors
    /// As [`Connection::patience`], but for a cluster that does not answer.
    pub(super) fn refusal(&self, last: bool) -> Result<()> {
        if self.watch.should_stop() {
            return Err(Error::Interrupted);
        }
        let said = self.context().said();
        let lasting = |seen: &(Instant, u32, String)| last || seen.1 >= REFUSALS || seen.0.elapsed() >= REFUSED_FOR;
        if let Some((_, _, reason)) = said.refused.as_ref().filter(|s| lasting(s)) {
            return Err(trouble::refused(&self.brokers, reason));
        }
        if let Some((_, _, reason)) = said.tls.as_ref().filter(|s| lasting(s)) {
            return Err(trouble::tls(&self.brokers, reason));
        }
        match &said.fatal {
            Some(reason) => Err(trouble::fatal(&self.brokers, reason)),
            None => Ok(()),
        }
    }

    /// Has the client's own thread look what there is to do. Whether a broker has come that can be asked for the group's
    /// coordinator it looks when it is asked for anything, or a second later.
    pub(super) fn wake(&self) {
        use rdkafka::consumer::Consumer;
        let _ = self.client.assignment();
    }

    pub(super) fn context(&self) -> &Context {
        use rdkafka::consumer::Consumer;
        self.client.context()
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// As [`Connection::patience`].
    pub(super) fn wait<T>(&self, answer: impl Fn(Duration) -> Option<T>) -> Result<T> {
        let since = Instant::now();
        loop {
            if let Some(found) = answer(SLICE) {
                return Ok(found);
            }
            self.patience(since)?;
        }
    }

    pub(super) fn watch(&self) -> &'a dyn Watch {
        self.watch
    }
}

impl Drop for Connection<'_> {
    /// Closes a client that reads. Left to itself, its end looks only every tenth of a second whether that is done.
    fn drop(&mut self) {
        if Arc::strong_count(&self.client) > 1 || self.client.close_queue().is_err() {
            return;
        }
        let since = Instant::now();
        while !self.client.closed() {
            if since.elapsed() >= CLOSE_WAIT {
                // It waits for a broker to answer, which may take a minute. Nobody else has to: whoever lets go of the client
                // last waits. Without a thread for it, that is done here.
                let client = Arc::clone(&self.client);
                let last = move || {
                    while Arc::strong_count(&client) > 1 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                };
                let _ = Builder::new().name("penstock-close".into()).spawn(last);
                return;
            }
            self.client.poll(Duration::from_millis(1));
        }
    }
}

/// What every client is told: where the cluster is, how to be let in, and the user's own settings.
fn base_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    config.set("bootstrap.servers", &settings.brokers);
    config.set("client.id", "penstock");
    for (name, value) in settings.own.iter().chain(&settings.secrets) {
        config.set(name, value);
    }
    config
}
