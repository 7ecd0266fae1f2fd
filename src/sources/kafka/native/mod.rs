//! What of librdkafka has no wrapper in `rdkafka`, made safe: administrative questions (topic ids, offsets), queues of
//! single partitions, and messages read in batches. All `unsafe` of the source is here.
//!
//! No question goes to a group's coordinator: where that is not found in time, librdkafka 2.12 frees what the question
//! belongs to and uses it once more (`rd_kafka_admin_coord_request`), or, where the client ends meanwhile, counts its
//! holders from two threads. A commit finds the coordinator another way.

mod questions;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;

use super::client::Context;
pub(super) use questions::{Asked, Topic, ask_commit, ask_offsets, ask_topics};

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
