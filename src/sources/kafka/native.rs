//! What of librdkafka has no wrapper in `rdkafka`, made safe: administrative questions (topic ids, offsets, a group's
//! rights), queues of single partitions, and messages read in batches. All `unsafe` of the source is here.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;

use super::client::Context;

/// What answers with an error code, which is a number here: as the enum of the bindings, a code that a newer broker sends
/// and this version does not know would be undefined behaviour.
mod codes {
    use std::ffi::{c_char, c_int, c_void};

    use rdkafka::bindings as sys;

    unsafe extern "C" {
        pub(super) fn rd_kafka_error_code(error: *const sys::rd_kafka_error_t) -> c_int;
        pub(super) fn rd_kafka_event_error(event: *mut sys::rd_kafka_event_t) -> c_int;
        pub(super) fn rd_kafka_message_headers(
            message: *const sys::rd_kafka_message_t,
            headers: *mut *mut sys::rd_kafka_headers_t,
        ) -> c_int;
        pub(super) fn rd_kafka_header_get_all(
            headers: *const sys::rd_kafka_headers_t,
            index: usize,
            name: *mut *const c_char,
            value: *mut *const c_void,
            size: *mut usize,
        ) -> c_int;
    }
}

/// A client of the cluster.
pub(super) type Client = BaseConsumer<Context>;

/// What librdkafka calls an error: its code, and what it says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
}

impl Failure {
    fn of(code: i32, reason: String) -> Option<Self> {
        // A code that this version does not know (a newer broker's) is read as a number, never as the enum.
        let known = sys::rd_kafka_resp_err_t::try_from(code).map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from);
        let reason = if reason.is_empty() { known.to_string() } else { reason };
        (code != 0).then_some(Self { code: known, reason })
    }

    /// Takes a `rd_kafka_error_t` that belongs to us.
    unsafe fn take(error: *mut sys::rd_kafka_error_t) -> Option<Self> {
        if error.is_null() {
            return None;
        }
        // SAFETY: the pointer is not null, is ours, and is destroyed once, after its text was copied.
        unsafe {
            let found = Self::borrow(error);
            sys::rd_kafka_error_destroy(error);
            found
        }
    }

    unsafe fn borrow(error: *const sys::rd_kafka_error_t) -> Option<Self> {
        if error.is_null() {
            return None;
        }
        // SAFETY: the caller vouches for the pointer; the text lives as long as it does.
        unsafe { Self::of(codes::rd_kafka_error_code(error), text(sys::rd_kafka_error_string(error))) }
    }
}

unsafe fn text(from: *const c_char) -> String {
    // SAFETY: the caller gives null or a C string.
    if from.is_null() { String::new() } else { unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned() }
}

/// A queue of librdkafka's.
pub(super) struct Queue {
    queue: *mut sys::rd_kafka_queue_t,
    /// The queue must go before the client does.
    _client: Arc<Client>,
}

// SAFETY: librdkafka is thread-safe throughout; a queue may be polled from any thread.
unsafe impl Send for Queue {}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by librdkafka for us, and destroyed once.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) }
    }
}

impl Queue {
    /// A new queue, for answers.
    fn new(client: &Arc<Client>) -> Self {
        // SAFETY: the client lives.
        let queue = unsafe { sys::rd_kafka_queue_new(client.client().native_ptr()) };
        Self { queue, _client: Arc::clone(client) }
    }

    /// The queue of one partition, taken apart from the client's own. This has to happen before the partition is
    /// assigned: librdkafka then leaves it apart, so no message goes another way.
    pub(super) fn of_partition(client: &Arc<Client>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: client and text live for the call; librdkafka copies the name.
        unsafe {
            let queue = sys::rd_kafka_queue_get_partition(client.client().native_ptr(), topic.as_ptr(), partition);
            if queue.is_null() {
                return None;
            }
            sys::rd_kafka_queue_forward(queue, ptr::null_mut());
            Some(Self { queue, _client: Arc::clone(client) })
        }
    }

    /// How many messages wait in it.
    pub(super) fn len(&self) -> usize {
        // SAFETY: the queue lives.
        unsafe { sys::rd_kafka_queue_length(self.queue) }
    }

    /// Takes messages, at most `room` of them, waiting for the first so long.
    pub(super) fn messages(&self, wait: Duration, room: usize, into: &mut Vec<Message>) {
        let mut found: Vec<*mut sys::rd_kafka_message_t> = vec![ptr::null_mut(); room];
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: there is room for as many pointers as are asked for.
        let count = unsafe { sys::rd_kafka_consume_batch_queue(self.queue, wait, found.as_mut_ptr(), room) };
        found.truncate(usize::try_from(count).unwrap_or(0));
        into.extend(found.into_iter().map(Message));
    }

    fn event(&self, wait: Duration) -> Option<Event> {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue, wait) };
        (!event.is_null()).then_some(Event(event))
    }
}

struct Event(*mut sys::rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by librdkafka for us, and destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.0) }
    }
}

impl Event {
    fn failure(&self) -> Option<Failure> {
        // SAFETY: the event lives; so does its text.
        unsafe { Failure::of(codes::rd_kafka_event_error(self.0), text(sys::rd_kafka_event_error_string(self.0))) }
    }
}

/// A message, or an error of its partition, as librdkafka holds it.
pub(super) struct Message(*mut sys::rd_kafka_message_t);

// SAFETY: a message belongs to whoever took it out of its queue.
unsafe impl Send for Message {}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: taken out of a queue by us, and destroyed once.
        unsafe { sys::rd_kafka_message_destroy(self.0) }
    }
}

impl Message {
    pub(super) fn failure(&self) -> Option<Failure> {
        // SAFETY: the message lives. The code is read as a number: a newer broker's may be none of the enum's.
        unsafe {
            let code = ptr::addr_of!((*self.0).err).cast::<i32>().read();
            if code == 0 {
                return None;
            }
            let reason = bytes((*self.0).payload, (*self.0).len).unwrap_or_default();
            Failure::of(code, String::from_utf8_lossy(reason).trim_end_matches('\0').to_owned())
        }
    }

    pub(super) fn offset(&self) -> i64 {
        // SAFETY: the message lives.
        unsafe { (*self.0).offset }
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        // SAFETY: the bytes live as long as the message.
        unsafe { bytes((*self.0).payload, (*self.0).len) }
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: as above.
        unsafe { bytes((*self.0).key, (*self.0).key_len) }
    }

    /// In milliseconds since the Unix epoch, and what it is.
    pub(super) fn timestamp(&self) -> (Option<i64>, Option<&'static str>) {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let name = match kind {
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => None,
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => Some("create_time"),
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Some("log_append_time"),
        };
        (name.and((time >= 0).then_some(time)), name)
    }

    pub(super) fn headers(&self) -> crate::events::Headers {
        let mut headers: *mut sys::rd_kafka_headers_t = ptr::null_mut();
        let mut found = vec![];
        // SAFETY: the headers, their names and values live as long as the message, and are copied.
        unsafe {
            if codes::rd_kafka_message_headers(self.0, &raw mut headers) != 0 {
                return found;
            }
            for i in 0..sys::rd_kafka_header_cnt(headers) {
                let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
                if codes::rd_kafka_header_get_all(headers, i, &raw mut name, &raw mut value, &raw mut size) != 0 {
                    break;
                }
                found.push((text(name), bytes(value, size).map(<[u8]>::to_vec)));
            }
        }
        found
    }
}

unsafe fn bytes<'a>(from: *const c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller gives null, or so many bytes that outlive the slice.
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) })
}

/// A question that was sent to the cluster.
pub(super) struct Asked {
    answer: Queue,
    /// What the topics are, where it needs no waiting.
    known: Option<Result<Vec<Topic>, Failure>>,
}

/// What a topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) name: String,
    /// None where the broker tells none.
    pub(super) id: Option<String>,
    pub(super) partitions: Vec<i32>,
    pub(super) failure: Option<Failure>,
}

/// One partition with an offset, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) failure: Option<Failure>,
}

struct Options(*mut sys::rd_kafka_AdminOptions_t);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made below, and destroyed once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0) }
    }
}

impl Options {
    fn new(client: &Client, of: sys::rd_kafka_admin_op_t, wait: Duration) -> Self {
        let mut said: [c_char; 256] = [0; 256];
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).clamp(1, 3_600_000);
        // SAFETY: the client lives, and the buffer has the size that is told.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(client.client().native_ptr(), of);
            // A time that is out of bounds is left at its default; ours never is.
            sys::rd_kafka_AdminOptions_set_request_timeout(options, wait, said.as_mut_ptr(), said.len());
            Self(options)
        }
    }
}

/// How the id of librdkafka's own cluster, which lives in a process, begins.
const IN_PROCESS: &str = "mockCluster";

/// What these topics are as a cluster in this process has it: it has no controller, which is who knows topics by ids.
fn topics_in_process(client: &Client, topics: &[String], wait: Duration) -> Result<Vec<Topic>, Failure> {
    let failed = |code: RDKafkaErrorCode| Failure { code, reason: code.to_string() };
    let mut found = vec![];
    for name in topics {
        let answer = client.fetch_metadata(Some(name), wait);
        let answer = answer.map_err(|e| failed(e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)))?;
        found.extend(answer.topics().iter().map(|topic| Topic {
            name: topic.name().to_owned(),
            id: None,
            partitions: topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect(),
            failure: topic.error().map(|code| failed(code.into())),
        }));
    }
    Ok(found)
}

/// Asks what these topics are.
pub(super) fn ask_topics(client: &Arc<Client>, topics: &[String], wait: Duration) -> Asked {
    let answer = Queue::new(client);
    if cluster(client).is_some_and(|id| id.starts_with(IN_PROCESS)) {
        return Asked { answer, known: Some(topics_in_process(client, topics, wait)) };
    }
    let options = Options::new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, wait);
    let names: Vec<CString> = topics.iter().filter_map(|t| CString::new(t.as_str()).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
    // SAFETY: all that is pointed to lives for the call; librdkafka copies it.
    unsafe {
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(client.client().native_ptr(), collection, options.0, answer.queue);
        sys::rd_kafka_TopicCollection_destroy(collection);
    }
    Asked { answer, known: None }
}

/// Asks for the offsets of these partitions: each carries a time in milliseconds, −1 (the end) or −2 (the earliest).
pub(super) fn ask_offsets(
    client: &Arc<Client>,
    partitions: &TopicPartitionList,
    committed_only: bool,
    wait: Duration,
) -> Asked {
    use sys::rd_kafka_IsolationLevel_t as Level;
    let answer = Queue::new(client);
    let options = Options::new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, wait);
    let level = if committed_only {
        Level::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED
    } else {
        Level::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED
    };
    // SAFETY: all that is pointed to lives for the call; librdkafka copies the list.
    unsafe {
        Failure::take(sys::rd_kafka_AdminOptions_set_isolation_level(options.0, level));
        sys::rd_kafka_ListOffsets(client.client().native_ptr(), partitions.ptr(), options.0, answer.queue);
    }
    Asked { answer, known: None }
}

/// Asks what a group is: the broker answers only who may use it. (What the group has committed would tell as well, but
/// librdkafka 2.12 crashes when its coordinator is only just being found: it retries a request that it was not given.)
pub(super) fn ask_group(client: &Arc<Client>, group: &str, wait: Duration) -> Option<Asked> {
    let answer = Queue::new(client);
    let options = Options::new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, wait);
    let group = CString::new(group).ok()?;
    let mut groups = [group.as_ptr()];
    // SAFETY: all that is pointed to lives for the call; librdkafka copies it.
    unsafe {
        let rk = client.client().native_ptr();
        sys::rd_kafka_DescribeConsumerGroups(rk, groups.as_mut_ptr(), groups.len(), options.0, answer.queue);
    }
    Some(Asked { answer, known: None })
}

/// Commits these offsets to the client's group; the answer comes by itself.
pub(super) fn ask_commit(client: &Arc<Client>, offsets: &TopicPartitionList) -> Asked {
    let answer = Queue::new(client);
    // SAFETY: all that is pointed to lives for the call; librdkafka copies the list. What the call itself answers comes
    // as an event, too.
    unsafe {
        sys::rd_kafka_commit_queue(client.client().native_ptr(), offsets.ptr(), answer.queue, None, ptr::null_mut());
    }
    Asked { answer, known: None }
}

impl Asked {
    /// What came within this time of a question for topics.
    pub(super) fn topics(&self, wait: Duration) -> Option<Result<Vec<Topic>, Failure>> {
        if self.known.is_some() {
            return self.known.clone();
        }
        let event = self.answer.event(wait)?;
        if let Some(failure) = event.failure() {
            return Some(Err(failure));
        }
        let mut found = vec![];
        // SAFETY: everything lives as long as the event, and is copied.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
            if result.is_null() {
                return None;
            }
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            for i in 0..count {
                let topic = *topics.add(i);
                let id = sys::rd_kafka_TopicDescription_topic_id(topic);
                let none = id.is_null()
                    || (sys::rd_kafka_Uuid_most_significant_bits(id) == 0
                        && sys::rd_kafka_Uuid_least_significant_bits(id) == 0);
                let mut parts = 0;
                let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut parts);
                let number = |p: usize| sys::rd_kafka_TopicPartitionInfo_partition(*partitions.add(p));
                found.push(Topic {
                    name: text(sys::rd_kafka_TopicDescription_name(topic)),
                    id: if none { None } else { Some(text(sys::rd_kafka_Uuid_base64str(id))) },
                    partitions: (0..parts).map(number).collect(),
                    failure: Failure::borrow(sys::rd_kafka_TopicDescription_error(topic)),
                });
            }
        }
        Some(Ok(found))
    }

    /// What came within this time of a question for offsets.
    pub(super) fn offsets(&self, wait: Duration) -> Option<Result<Vec<Offset>, Failure>> {
        let event = self.answer.event(wait)?;
        if let Some(failure) = event.failure() {
            return Some(Err(failure));
        }
        let mut found = vec![];
        // SAFETY: everything lives as long as the event, and is copied.
        unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(event.0);
            if result.is_null() {
                return None;
            }
            let mut count = 0;
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
            for i in 0..count {
                let of = sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
                found.push(Offset {
                    topic: text((*of).topic),
                    partition: (*of).partition,
                    offset: (*of).offset,
                    failure: Failure::of(ptr::addr_of!((*of).err).cast::<i32>().read(), String::new()),
                });
            }
        }
        Some(Ok(found))
    }

    /// What came within this time of a question for a group's rights.
    pub(super) fn group(&self, wait: Duration) -> Option<Result<(), Failure>> {
        let event = self.answer.event(wait)?;
        if let Some(failure) = event.failure() {
            return Some(Err(failure));
        }
        // SAFETY: everything lives as long as the event, and is copied.
        unsafe {
            let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event.0);
            if result.is_null() {
                return None;
            }
            let mut count = 0;
            let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
            for i in 0..count {
                if let Some(failure) = Failure::borrow(sys::rd_kafka_ConsumerGroupDescription_error(*groups.add(i))) {
                    return Some(Err(failure));
                }
            }
        }
        Some(Ok(()))
    }

    /// What came within this time of a commit.
    pub(super) fn commit(&self, wait: Duration) -> Option<Result<(), Failure>> {
        let event = self.answer.event(wait)?;
        if let Some(failure) = event.failure() {
            return Some(Err(failure));
        }
        // SAFETY: the list lives as long as the event.
        let of_one = unsafe {
            let list = sys::rd_kafka_event_topic_partition_list(event.0);
            let count = if list.is_null() { 0 } else { usize::try_from((*list).cnt).unwrap_or(0) };
            (0..count).find_map(|i| {
                let of = (*list).elems.add(i);
                Failure::of(ptr::addr_of!((*of).err).cast::<i32>().read(), String::new())
            })
        };
        Some(of_one.map_or(Ok(()), Err))
    }
}

/// The first and the last offset of a partition as the last answer of its broker had them; −1001 where there was none.
pub(super) fn watermarks(client: &Client, topic: &CStr, partition: i32, low: &mut i64, high: &mut i64) {
    // SAFETY: all that is pointed to lives for the call. That the partition is unknown leaves the numbers as they are.
    unsafe {
        sys::rd_kafka_get_watermark_offsets(client.client().native_ptr(), topic.as_ptr(), partition, low, high);
    }
}

/// The id of the cluster, once it is connected to.
pub(super) fn cluster(client: &Client) -> Option<String> {
    // SAFETY: the client lives; the text is ours, copied, and given back.
    unsafe {
        let rk = client.client().native_ptr();
        let id = sys::rd_kafka_clusterid(rk, 1_000);
        if id.is_null() {
            return None;
        }
        let found = text(id);
        sys::rd_kafka_mem_free(rk, id.cast());
        (!found.is_empty()).then_some(found)
    }
}
