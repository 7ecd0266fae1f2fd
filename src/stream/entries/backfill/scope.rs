//! What a backfill replaces: for each entity the stretches of time that hold whole sessions, old ones and new ones.

use std::collections::HashMap;

use crate::stream::log::FileEntry;

/// The hash that an entity is parted by.
pub fn hash_of(entity: Option<&str>) -> u64 {
    // No text holds the byte 0xFF.
    xxhash_rust::xxh3::xxh3_64(entity.map_or(&[0xFF], str::as_bytes))
}

/// A stretch of event time, half-open, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub from: i64,
    /// Its end.
    pub to: i64,
}

impl Window {
    /// The same and so much on both sides.
    pub fn wider(self, margin: i64) -> Self {
        Self { from: self.from.saturating_sub(margin), to: self.to.saturating_add(margin) }
    }

    /// Whether a moment lies in it.
    pub fn holds(self, time: i64) -> bool {
        (self.from..self.to).contains(&time)
    }

    /// Whether a file may hold times of it.
    pub fn touches(self, file: &FileEntry) -> bool {
        match (file.min_event_time, file.max_event_time) {
            (Some(min), Some(max)) => min < self.to && max >= self.from,
            _ => false,
        }
    }
}

/// What a backfill replaces.
#[derive(Debug)]
pub struct Scope {
    /// The days asked for.
    pub range: Window,
    /// What the stream works on begins here, unless the entity has a session open.
    pub watermark: Option<i64>,
    /// The beginnings of open sessions, by hash of the entity.
    pub open: HashMap<u64, i64>,
    /// The gap between sessions; none where there are no sessions.
    pub gap: Option<i64>,
    stretches: HashMap<u64, Vec<(i64, i64)>>,
}

impl Scope {
    /// Nothing is replaced yet.
    pub fn new(range: Window, watermark: Option<i64>, open: HashMap<u64, i64>, gap: Option<i64>) -> Self {
        Self { range, watermark, open, gap, stretches: HashMap::new() }
    }

    /// Whether the stream still works on this: an event that it holds, or one of an open session.
    pub fn is_streams(&self, entity: u64, time: i64) -> bool {
        if self.gap.is_none() {
            return false;
        }
        let from = self.open.get(&entity).copied().or(self.watermark);
        from.is_some_and(|from| time >= from)
    }

    /// Whether rows of this entity at this time are replaced.
    pub fn holds(&self, entity: u64, time: i64) -> bool {
        if self.gap.is_none() {
            return self.range.holds(time);
        }
        let Some(stretches) = self.stretches.get(&entity) else { return false };
        let at = stretches.partition_point(|(_, last)| *last < time);
        stretches.get(at).is_some_and(|(first, _)| *first <= time) && !self.is_streams(entity, time)
    }

    /// Finds the stretches of an entity that touch the range: its events no further than the gap apart, and its old
    /// sessions whole. The answer is whether they lie inside the window, so that all of them is known.
    pub fn find(&mut self, entity: u64, mut times: Vec<i64>, sessions: Vec<(i64, i64)>, window: Window) -> bool {
        let Some(gap) = self.gap else { return true };
        times.sort_unstable();
        let mut pieces = sessions;
        for time in times {
            match pieces.last_mut() {
                // Behind the sessions the pieces are chains of events.
                Some((first, last)) if *last <= time && time - *last <= gap && *first <= time => *last = time,
                _ => pieces.push((time, time)),
            }
        }
        pieces.sort_unstable();
        let mut merged: Vec<(i64, i64)> = vec![];
        for (first, last) in pieces {
            match merged.last_mut() {
                Some((_, end)) if first.saturating_sub(*end) <= gap => *end = (*end).max(last),
                _ => merged.push((first, last)),
            }
        }
        merged.retain(|(first, last)| *first < self.range.to && *last >= self.range.from);
        let inside = merged
            .iter()
            .all(|(first, last)| first.saturating_sub(gap) >= window.from && last.saturating_add(gap) < window.to);
        if !merged.is_empty() {
            self.stretches.insert(entity, merged);
        }
        inside
    }

    /// Forgets what was found, for a wider window.
    pub fn clear(&mut self) {
        self.stretches.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_hold_whole_sessions() {
        let range = Window { from: 100, to: 200 };
        let window = range.wider(100);
        let mut scope = Scope::new(range, Some(1_000), HashMap::new(), Some(10));
        // Events before and after that hang together with those in the range, and others that do not.
        assert!(scope.find(1, vec![150, 104, 95, 85, 40, 195, 204, 213, 250], vec![], window));
        for (time, held) in [(40, false), (85, true), (95, true), (150, true), (204, true), (213, true), (250, false)] {
            assert_eq!(scope.holds(1, time), held, "{time}");
        }
        // An old session that reached further belongs to it.
        assert!(scope.find(2, vec![195, 230], vec![(180, 230)], window));
        assert!(scope.holds(2, 230) && scope.holds(2, 195) && !scope.holds(2, 241));
        // One that reaches the edge of what was read is not known whole.
        assert!(!scope.find(3, (0..20).map(|n| n * 10).collect(), vec![], window));
        assert!(scope.find(4, vec![], vec![], window) && !scope.holds(4, 150));
    }

    #[test]
    fn what_the_stream_works_on_is_left_alone() {
        let range = Window { from: 100, to: 200 };
        let mut scope = Scope::new(range, Some(180), HashMap::from([(1, 150)]), Some(10));
        for entity in [1, 2] {
            scope.find(entity, vec![140, 150, 160, 170, 180, 190], vec![], range.wider(100));
        }
        assert!(scope.holds(1, 140) && !scope.holds(1, 150), "its open session is the stream's");
        assert!(scope.holds(2, 170) && !scope.holds(2, 180), "held events are the stream's");
    }
}
