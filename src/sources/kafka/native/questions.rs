//! Questions to the cluster that `rdkafka` has no wrapper for, and their answers: they come by queues of their own.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::consumer::Consumer;
use rdkafka::types::RDKafkaErrorCode;

use super::{Client, Failure, Queue, cluster, text};

/// A question that was sent to the cluster.
pub(in super::super) struct Asked {
    answer: Queue,
    /// What the topics are, where it needs no waiting.
    known: Option<Result<Vec<Topic>, Failure>>,
}

/// What a topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Topic {
    pub(in super::super) name: String,
    /// None where the broker tells none.
    pub(in super::super) id: Option<String>,
    pub(in super::super) partitions: Vec<i32>,
    pub(in super::super) failure: Option<Failure>,
}

/// One partition with an offset, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Offset {
    pub(in super::super) topic: String,
    pub(in super::super) partition: i32,
    pub(in super::super) offset: i64,
    pub(in super::super) failure: Option<Failure>,
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
pub(in super::super) fn ask_topics(client: &Arc<Client>, topics: &[String], wait: Duration) -> Asked {
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
pub(in super::super) fn ask_offsets(
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

/// Commits these offsets to the client's group; the answer comes by itself.
pub(in super::super) fn ask_commit(client: &Arc<Client>, offsets: &TopicPartitionList) -> Asked {
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
    pub(in super::super) fn topics(&self, wait: Duration) -> Option<Result<Vec<Topic>, Failure>> {
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
    pub(in super::super) fn offsets(&self, wait: Duration) -> Option<Result<Vec<Offset>, Failure>> {
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
                let failure = Failure::of(ptr::addr_of!((*of).err).cast::<i32>().read(), String::new());
                // Where one of several leaders did not answer, librdkafka leaves its partitions as they were before the
                // question: no error, and no offset.
                let unanswered = (*of).offset == i64::from(sys::RD_KAFKA_OFFSET_INVALID);
                let timed_out =
                    || Failure::of(sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT as i32, String::new());
                found.push(Offset {
                    topic: text((*of).topic),
                    partition: (*of).partition,
                    offset: (*of).offset,
                    failure: failure.or_else(|| unanswered.then(timed_out).flatten()),
                });
            }
        }
        Some(Ok(found))
    }

    /// What came within this time of a commit.
    pub(in super::super) fn commit(&self, wait: Duration) -> Option<Result<(), Failure>> {
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
