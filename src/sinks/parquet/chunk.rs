//! A column chunk while its pages come: their bytes, compressed, and what the footer will say of them.

use std::cell::RefCell;

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::zstd_safe::CParameter;

use crate::content::Content;
use crate::error::{Error, Result};

/// At level 1 the compressor's table is this (a power of two): half of zstd's own choice fits the innermost cache, is 7 %
/// faster, and makes events no larger.
const FAST_TABLE: u32 = 13;

/// Pages whose like shrank by less than one part in so many are not compressed: bits that are packed already.
const WORTH: usize = 16;

/// What is finished of a column chunk.
#[derive(Clone)]
pub(super) struct Chunk {
    bytes: Pieces,
    /// Of each page: bytes with the header, rows.
    pages: Vec<(usize, usize)>,
    /// How many pages have each encoding.
    encodings: Vec<(Encoding, i32)>,
    /// How the last page was encoded, and whether it shrank.
    shrinks: Option<(Encoding, bool)>,
    /// What is kept of each page, if that is wanted: the least and the greatest value, and the nulls.
    bounds: Vec<(Option<Bounds>, usize)>,
    /// Whether the bounds of pages rise or fall from one to the next.
    order: BoundaryOrder,
    rows: usize,
    nulls: usize,
    uncompressed: usize,
}

/// Pages behind one another. A large one has memory of its own, so that none is copied once more as the chunk grows.
#[derive(Clone, Default)]
struct Pieces {
    full: Content,
    open: Vec<u8>,
}

/// Small pages share memory up to so many bytes.
const PIECE: usize = 64 << 10;
/// What the header of a page takes, about.
const HEADER: usize = 64;

impl Pieces {
    fn len(&self) -> usize {
        self.full.len() + self.open.len()
    }

    /// Where so many bytes more are to be appended.
    fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        if self.open.len() + bytes > self.open.capacity().max(PIECE) {
            self.seal();
        }
        self.open.reserve(bytes);
        &mut self.open
    }

    fn seal(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        // It stays as it is until the file is put.
        open.shrink_to_fit();
        self.full.push(open.into());
    }

    fn into_content(mut self) -> Content {
        self.seal();
        self.full
    }
}

/// A least and a greatest value.
pub(super) type Bounds = (Vec<u8>, Vec<u8>);

impl Default for Chunk {
    fn default() -> Self {
        Self {
            bytes: Pieces::default(),
            pages: Vec::new(),
            encodings: Vec::new(),
            shrinks: None,
            bounds: Vec::new(),
            order: BoundaryOrder::UNORDERED,
            rows: 0,
            nulls: 0,
            uncompressed: 0,
        }
    }
}

impl Chunk {
    /// About how many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many pages it has.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many nulls it has.
    pub(super) fn nulls(&self) -> usize {
        self.nulls
    }

    /// Says what the next page holds, for the index.
    pub(super) fn describe(&mut self, bounds: Option<Bounds>, nulls: usize) {
        self.bounds.push((bounds, nulls));
    }

    /// The bounds of pages rise or fall.
    pub(super) fn ordered(&mut self, order: BoundaryOrder) {
        self.order = order;
    }

    /// Appends a page.
    pub(super) fn page(
        &mut self,
        level: i32,
        encoding: Encoding,
        page: &[u8],
        rows: usize,
        nulls: usize,
    ) -> Result<()> {
        let data_page = |buf: Bytes| Page::DataPage {
            buf,
            num_values: rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let (size, uncompressed) = match self.shrinks {
            Some((like, false)) if like == encoding => {
                framed(|frame| store(page, frame), |buf| put_page(&mut self.bytes, page.len(), data_page(buf)))?
            }
            _ => framed(
                |frame| compress(level, page, frame),
                |buf| {
                    self.shrinks = Some((encoding, buf.len() + page.len() / WORTH <= page.len()));
                    put_page(&mut self.bytes, page.len(), data_page(buf))
                },
            )?,
        };
        match self.encodings.iter_mut().find(|(known, _)| *known == encoding) {
            Some((_, pages)) => *pages += 1,
            None => self.encodings.push((encoding, 1)),
        }
        self.pages.push((size, rows));
        self.uncompressed += uncompressed;
        self.rows += rows;
        self.nulls += nulls;
        Ok(())
    }

    /// The bytes, and what the footer says of them. `dictionary`: its page, and how many values that has.
    pub(super) fn close(
        self,
        column: &ColumnDescPtr,
        level: i32,
        dictionary: Option<(&[u8], usize)>,
        statistics: Option<Statistics>,
    ) -> Result<(Content, ColumnCloseResult)> {
        let mut content = Content::default();
        let mut uncompressed = self.uncompressed;
        let has_numbers = |(encoding, _): &(Encoding, i32)| *encoding == Encoding::RLE_DICTIONARY;
        let dictionary = dictionary.filter(|_| self.encodings.iter().any(has_numbers));
        if let Some((page, values)) = dictionary {
            let (num_values, encoding) = (values as u32, Encoding::PLAIN);
            let mut bytes = Pieces::default();
            let dictionary_page = |buf| Page::DictionaryPage { buf, num_values, encoding, is_sorted: false };
            let put = framed(
                |frame| compress(level, page, frame),
                |buf| put_page(&mut bytes, page.len(), dictionary_page(buf)),
            )?;
            uncompressed += put.1;
            content.append(bytes.into_content());
        }
        let first_page = content.len();
        content.append(self.bytes.into_content());
        let mut offsets = OffsetIndexBuilder::new();
        let mut offset = first_page;
        for (size, rows) in &self.pages {
            offsets.append_offset_and_size(offset as i64, *size as i32);
            offsets.append_row_count(*rows as i64);
            offset += size;
        }
        let mut encodings = vec![Encoding::RLE];
        let mut stats = Vec::new();
        let data = self.encodings.iter().map(|(encoding, count)| (PageType::DATA_PAGE, *encoding, *count));
        let dictionary_page = dictionary.map(|_| (PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1));
        for (page_type, encoding, count) in dictionary_page.into_iter().chain(data) {
            stats.push(PageEncodingStats { page_type, encoding, count });
            if !encodings.contains(&encoding) {
                encodings.push(encoding);
            }
        }
        let mut metadata = ColumnChunkMetaData::builder(ColumnDescPtr::clone(column))
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(level)?))
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(content.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(first_page as i64)
            .set_dictionary_page_offset(dictionary.map(|_| 0));
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let index = (!self.bounds.is_empty()).then(|| {
            let mut index = ColumnIndexBuilder::new(column.physical_type());
            index.set_boundary_order(self.order);
            for (bounds, nulls) in self.bounds {
                let null_page = bounds.is_none();
                let (least, greatest) = bounds.unwrap_or_default();
                index.append(null_page, least, greatest, nulls as i64);
            }
            index.build()
        });
        let close = ColumnCloseResult {
            bytes_written: content.len() as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: index.transpose()?,
            offset_index: Some(offsets.build()),
        };
        Ok((content, close))
    }
}

/// What the footer says of a chunk whose bytes are those of another column, too.
pub(super) fn same_as(close: &ColumnCloseResult, column: &ColumnDescPtr) -> Result<ColumnCloseResult> {
    let known = &close.metadata;
    let mut metadata = ColumnChunkMetaData::builder(ColumnDescPtr::clone(column))
        .set_compression(known.compression())
        .set_encodings(known.encodings().collect())
        .set_total_compressed_size(known.compressed_size())
        .set_total_uncompressed_size(known.uncompressed_size())
        .set_num_values(known.num_values())
        .set_data_page_offset(known.data_page_offset())
        .set_dictionary_page_offset(known.dictionary_page_offset());
    if let Some(stats) = known.page_encoding_stats() {
        metadata = metadata.set_page_encoding_stats(stats.clone());
    }
    if let Some(statistics) = known.statistics() {
        metadata = metadata.set_statistics(statistics.clone());
    }
    Ok(ColumnCloseResult {
        bytes_written: close.bytes_written,
        rows_written: close.rows_written,
        metadata: metadata.build()?,
        bloom_filter: None,
        column_index: close.column_index.clone(),
        offset_index: close.offset_index.clone(),
    })
}

/// Appends a page with its header. How many bytes that are, and how many it would be uncompressed.
fn put_page(out: &mut Pieces, uncompressed: usize, page: Page) -> Result<(usize, usize)> {
    let mut sink = TrackedWrite::new(out.room(page.buffer().len() + HEADER));
    let written = SerializedPageWriter::new(&mut sink).write_page(CompressedPage::new(page, uncompressed))?;
    sink.into_inner()?;
    Ok((written.compressed_size, written.uncompressed_size))
}

/// A compressor: it is large, and the same for every column.
struct Kept {
    level: i32,
    compressor: zstd::bulk::Compressor<'static>,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<Kept>> = const { RefCell::new(None) };
    /// Room for a frame, used again and again.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// More room than for a page of this many bytes is not kept.
const ROOM_KEPT: usize = 2 << 20;

/// Makes a frame of zstd and hands it on, without a copy: its room is the next one's, too.
fn framed<T>(make: impl FnOnce(&mut Vec<u8>) -> Result<()>, put: impl FnOnce(Bytes) -> Result<T>) -> Result<T> {
    let mut frame = FRAME.take();
    frame.clear();
    make(&mut frame)?;
    let mut frame = Bytes::from(frame);
    let done = put(frame.clone());
    // The page has let go of it again: this is the room itself.
    frame.truncate(0);
    let room = Vec::from(frame);
    if room.capacity() <= ROOM_KEPT {
        FRAME.replace(room);
    }
    done
}

fn compress(level: i32, bytes: &[u8], frame: &mut Vec<u8>) -> Result<()> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let failed = |e: std::io::Error| Error::Internal(format!("a page cannot be compressed: {e}"));
        let kept = match kept {
            Some(kept) if kept.level == level => kept,
            none => {
                let mut compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
                if level == 1 {
                    compressor.set_parameter(CParameter::HashLog(FAST_TABLE)).map_err(failed)?;
                }
                none.insert(Kept { level, compressor })
            }
        };
        frame.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        kept.compressor.compress_to_buffer(bytes, frame).map_err(failed)?;
        Ok(())
    })
}

/// A frame of zstd that holds the bytes as they are.
fn store(bytes: &[u8], frame: &mut Vec<u8>) -> Result<()> {
    const BLOCK: usize = 128 << 10;
    frame.reserve(bytes.len() + bytes.len() / BLOCK * 3 + 16);
    // Magic number; a header with the size of the content in four bytes, and a window that holds it all.
    frame.extend_from_slice(&[0x28, 0xB5, 0x2F, 0xFD, 0b1010_0000]);
    frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    let mut rest = bytes;
    loop {
        let (block, after) = rest.split_at(rest.len().min(BLOCK));
        // Whether it is the last one, its kind (raw), its size.
        let header = u32::from(after.is_empty()) | (block.len() as u32) << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
        rest = after;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(level: i32, page: &[u8]) -> Bytes {
        framed(|frame| compress(level, page, frame), |frame| Ok(Bytes::copy_from_slice(&frame))).unwrap()
    }

    #[test]
    fn a_stored_frame_is_a_frame() {
        for length in [0, 1, 255, 256, 65_536, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 256 << 10, 1_000_000] {
            let bytes: Vec<u8> = (0..length).map(|i: u32| i.wrapping_mul(i) as u8).collect();
            let frame = framed(|frame| store(&bytes, frame), |frame| Ok(Bytes::copy_from_slice(&frame))).unwrap();
            assert_eq!(zstd::bulk::decompress(&frame, bytes.len()).unwrap(), bytes);
            assert_eq!(zstd::stream::decode_all(frame.as_ref()).unwrap(), bytes);
        }
    }

    #[test]
    fn a_compressor_that_was_used_gives_the_same_bytes() {
        let mut state = 1u64;
        let mut page = |length: usize, alphabet: u64| -> Vec<u8> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            (0..length).map(|_| (next() % alphabet) as u8).collect()
        };
        let pages: Vec<_> = (0..60).map(|i| page(7usize.pow(i % 7 + 1) / 3, [2u64, 16, 200][i as usize % 3])).collect();
        for level in [1, 3] {
            let used: Vec<_> = pages.iter().map(|p| compressed(level, p)).collect();
            for (page, used) in pages.iter().zip(used).rev() {
                let fresh = std::thread::scope(|s| s.spawn(|| compressed(level, page)).join().unwrap());
                assert_eq!(fresh, used);
                assert_eq!(compressed(level, page), used);
            }
        }
    }
}
