//! The part of a collection's full text that tantivy keeps: rows and their terms, nothing stored. A commit says up to which row.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use tantivy::{
    DocAddress, Index, IndexReader, Order, ReloadPolicy, Searcher, TantivyDocument, TantivyError, Term,
    collector::{
        TopDocs,
        sort_key::{SortBySimilarityScore, SortByStaticFastValue},
    },
    columnar::Column,
    directory::MmapDirectory,
    error::DataCorruption,
    indexer::LogMergePolicy,
    query::{BooleanQuery, BoostQuery, Occur, Query, TermQuery},
    schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
    tokenizer::{PreTokenizedString, Token},
};

use super::bm25::{Asked, Statistics};
use crate::{Error, Result, Row, select::Best};

/// Grows when terms are made otherwise: an older index is built anew.
const FORMAT: u32 = 2;

/// The field of a document's row.
const ROW: &str = "row";

const WRITER_BYTES: usize = 64 << 20;

/// Rows that are added between two looks whether it is time to stop.
const STOP_EVERY: usize = 64;

pub struct Disk {
    index: Index,
    reader: IndexReader,
    row: Field,
    text: Field,
    /// Those that it holds, dead ones included.
    rows: Arc<RoaringBitmap>,
    /// All rows below were looked at.
    next: Row,
}

/// What each commit says.
#[derive(Default, Serialize, Deserialize)]
struct Extent {
    format: u32,
    /// Of the collection.
    uuid: String,
    next: Row,
    n_rows: u64,
    /// Of all that.
    checksum: u32,
}

/// A row to be added.
pub struct Document {
    pub row: Row,
    pub terms: Vec<String>,
}

/// What changes with a commit.
pub struct Changes<'a> {
    pub documents: &'a mut dyn Iterator<Item = Result<Document>>,
    /// To be removed.
    pub dead: RoaringBitmap,
    /// All rows below were looked at.
    pub next: Row,
}

impl Disk {
    /// What is at `dir`; an empty one if nothing is. `Error::Damaged` if it is not of the collection with that `uuid`, or anything in it
    /// does not match its checksum.
    pub fn open(dir: &Path, uuid: &str) -> Result<Disk> {
        fs::create_dir_all(dir).map_err(|e| Error::Storage(format!("{}: {e}", dir.display())))?;
        // tantivy panics at some files that are damaged.
        let opened = catch_unwind(AssertUnwindSafe(|| Disk::open_checked(dir, uuid)));
        let opened = opened.unwrap_or_else(|_| Err(TantivyError::InternalError("reading it panicked".to_owned())));
        opened.map_err(|error| Error::Damaged { what: name(dir), detail: error.to_string() })
    }

    fn open_checked(dir: &Path, uuid: &str) -> tantivy::Result<Disk> {
        let mut schema = Schema::builder();
        let row = schema.add_u64_field(ROW, FAST | INDEXED);
        let frequencies = TextFieldIndexing::default().set_index_option(IndexRecordOption::WithFreqs);
        let text = schema.add_text_field("text", TextOptions::default().set_indexing_options(frequencies));
        let index = Index::builder().schema(schema.build()).open_or_create(MmapDirectory::open(dir)?)?;
        check_files(&index)?;
        let extent = match index.load_metas()?.payload {
            Some(payload) => Extent::parse(&payload, uuid)?,
            None => Extent::default(),
        };
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let mut disk = Disk { index, reader, row, text, rows: Arc::default(), next: extent.next };
        disk.rows = Arc::new(disk.read_rows()?);
        if disk.rows.len() != extent.n_rows {
            return Err(damaged(format!("rows: expected {}, received {}", extent.n_rows, disk.rows.len())));
        }
        Ok(disk)
    }

    pub fn next(&self) -> Row {
        self.next
    }

    pub fn rows(&self) -> &RoaringBitmap {
        &self.rows
    }

    pub fn n_rows(&self) -> u64 {
        self.searcher().segment_readers().iter().map(|segment| u64::from(segment.max_doc())).sum()
    }

    pub fn n_terms(&self) -> Result<u64> {
        let of = |segment: &tantivy::SegmentReader| Ok(segment.inverted_index(self.text)?.total_num_tokens());
        self.searcher().segment_readers().iter().map(of).sum::<tantivy::Result<u64>>().map_err(failed)
    }

    /// Rows that hold a term.
    pub fn n_with(&self, term: &str) -> Result<u64> {
        self.searcher().doc_freq(&Term::from_field_text(self.text, term)).map_err(failed)
    }

    /// What is searched: it stays as it is while it is held.
    pub fn view(&self) -> View {
        View { searcher: self.searcher(), rows: self.rows.clone(), text: self.text }
    }

    /// What writes to it, beside those that search.
    pub fn writer(&self) -> Writer {
        let Disk { index, row, text, rows, next, .. } = self;
        Writer { index: index.clone(), row: *row, text: *text, rows: (**rows).clone(), next: *next }
    }

    /// Shows searches what was written.
    pub fn install(&mut self, Written { rows, next }: Written) -> Result<()> {
        self.reader.reload().map_err(failed)?;
        (self.rows, self.next) = (Arc::new(rows), next);
        Ok(())
    }

    /// Compares the checksums of all files.
    pub fn check(&self, dir: &Path) -> Result<()> {
        check_files(&self.index).map_err(|error| Error::Damaged { what: name(dir), detail: error.to_string() })
    }

    fn searcher(&self) -> Searcher {
        self.reader.searcher()
    }

    fn read_rows(&self) -> tantivy::Result<RoaringBitmap> {
        let searcher = self.searcher();
        let columns = row_columns(&searcher)?;
        let of = |(segment, column): (&tantivy::SegmentReader, Column<u64>)| -> Vec<Row> {
            segment.doc_ids_alive().filter_map(|document| column.first(document).map(|row| row as Row)).collect()
        };
        Ok(searcher.segment_readers().iter().zip(columns).flat_map(of).collect())
    }
}

/// One state of it.
pub struct View {
    searcher: Searcher,
    rows: Arc<RoaringBitmap>,
    text: Field,
}

impl View {
    /// Offers those of the best rows that are live, never fewer than `limit` while there are as many.
    pub fn search(
        &self,
        asked: &Asked,
        statistics: &Statistics,
        (live, limit): (&RoaringBitmap, usize),
        best: &mut Best,
    ) -> Result<()> {
        let n_dead = (&*self.rows - live).len() as usize;
        let query = self.query(asked);
        let mut depth = limit + n_dead.min(limit);
        loop {
            let found = self.first((&query, statistics), depth)?;
            let n_live = found.iter().filter(|(row, _)| live.contains(*row)).count();
            if n_live >= limit || found.len() < depth || depth >= limit + n_dead {
                found
                    .into_iter()
                    .filter(|(row, _)| live.contains(*row))
                    .for_each(|(row, score)| best.offer(row, score));
                return Ok(());
            }
            depth = (depth * 2).min(limit + n_dead);
        }
    }

    /// The first rows by score, ties by row.
    fn first(&self, (query, statistics): (&BooleanQuery, &Statistics), depth: usize) -> Result<Vec<(Row, f32)>> {
        let one_more = TopDocs::with_limit(depth + 1).order_by_score();
        let mut found = self.searcher.search_with_statistics_provider(query, &one_more, statistics).map_err(failed)?;
        let is_cut_clean = |last: &[(f32, DocAddress)]| last[0].0 > last[1].0;
        if found.len() <= depth || is_cut_clean(&found[depth - 1..]) {
            found.truncate(depth);
            let rows = row_columns(&self.searcher).map_err(failed)?;
            let row = |at: DocAddress| rows[at.segment_ord as usize].first(at.doc_id).unwrap_or(u64::MAX) as Row;
            return Ok(found.into_iter().map(|(score, at)| (row(at), score)).collect());
        }
        // Which of equals come first, only a search that looks at all of them can tell: it passes over nothing.
        let by_score = (SortBySimilarityScore, Order::Desc);
        let by_row = (SortByStaticFastValue::<u64>::for_field(ROW), Order::Asc);
        let collector = TopDocs::with_limit(depth).order_by((by_score, by_row));
        let found = self.searcher.search_with_statistics_provider(query, &collector, statistics).map_err(failed)?;
        Ok(found.into_iter().map(|((score, row), _)| (row.unwrap_or(u64::MAX) as Row, score)).collect())
    }

    fn query(&self, asked: &Asked) -> BooleanQuery {
        let clause = |(term, count): (&String, &u32)| {
            let term = Term::from_field_text(self.text, term);
            let one: Box<dyn Query> = Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
            let query = if *count == 1 { one } else { Box::new(BoostQuery::new(one, *count as f32)) };
            (Occur::Should, query)
        };
        BooleanQuery::new(asked.iter().map(clause).collect())
    }
}

fn row_columns(searcher: &Searcher) -> tantivy::Result<Vec<Column<u64>>> {
    searcher.segment_readers().iter().map(|segment| segment.fast_fields().u64(ROW)).collect()
}

/// The next commit. One at a time.
pub struct Writer {
    index: Index,
    row: Field,
    text: Field,
    rows: RoaringBitmap,
    next: Row,
}

/// What is on disk after a commit.
pub struct Written {
    rows: RoaringBitmap,
    next: Row,
}

impl Writer {
    pub fn next(&self) -> Row {
        self.next
    }

    pub fn rows(&self) -> &RoaringBitmap {
        &self.rows
    }

    /// All changes or none; none and `Error::Closed` as soon as `stop` says so.
    pub fn commit(mut self, uuid: &str, changes: Changes<'_>, stop: &dyn Fn() -> bool) -> Result<Written> {
        let mut writer = self.index.writer_with_num_threads(1, WRITER_BYTES).map_err(failed)?;
        // What a commit that was killed left would be in the way of this one, which may give the same names.
        writer.garbage_collect_files().wait().map_err(failed)?;
        let mut merges = LogMergePolicy::default();
        merges.set_del_docs_ratio_before_merge(0.2);
        writer.set_merge_policy(Box::new(merges));
        for row in &changes.dead {
            writer.delete_term(Term::from_field_u64(self.row, row.into()));
        }
        self.rows -= changes.dead;
        for (place, document) in changes.documents.enumerate() {
            if place % STOP_EVERY == 0 && stop() {
                writer.rollback().map_err(failed)?;
                return Err(Error::Closed);
            }
            let Document { row, terms } = document?;
            self.rows.insert(row);
            writer.add_document(self.document(row, terms)).map_err(failed)?;
        }
        let mut commit = writer.prepare_commit().map_err(failed)?;
        commit.set_payload(&Extent::seal(uuid, changes.next, self.rows.len()));
        commit.commit().map_err(failed)?;
        writer.wait_merging_threads().map_err(failed)?;
        Ok(Written { rows: self.rows, next: changes.next })
    }

    fn document(&self, row: Row, terms: Vec<String>) -> TantivyDocument {
        let token = |(position, text)| Token { position, text, ..Token::default() };
        let tokens = terms.into_iter().enumerate().map(token).collect();
        let mut document = TantivyDocument::default();
        document.add_u64(self.row, row.into());
        document.add_pre_tokenized_text(self.text, PreTokenizedString { text: String::new(), tokens });
        document
    }
}

impl Extent {
    fn seal(uuid: &str, next: Row, n_rows: u64) -> String {
        let mut extent = Extent { format: FORMAT, uuid: uuid.to_owned(), next, n_rows, checksum: 0 };
        extent.checksum = extent.sum();
        serde_json::to_string(&extent).expect("plain data can be written")
    }

    /// One of another format or collection is damage too.
    fn parse(payload: &str, uuid: &str) -> tantivy::Result<Extent> {
        let extent: Extent = serde_json::from_str(payload).map_err(|error| damaged(error.to_string()))?;
        if extent.format != FORMAT || extent.uuid != uuid || extent.checksum != extent.sum() {
            return Err(damaged(format!("expected format {FORMAT} of collection {uuid}, received {payload}")));
        }
        Ok(extent)
    }

    fn sum(&self) -> u32 {
        crc32fast::hash(format!("{} {} {} {}", self.format, self.uuid, self.next, self.n_rows).as_bytes())
    }
}

fn check_files(index: &Index) -> tantivy::Result<()> {
    match index.validate_checksum()?.iter().min() {
        None => Ok(()),
        Some(first) => Err(damaged(format!("checksum of {}", first.display()))),
    }
}

fn damaged(detail: String) -> TantivyError {
    TantivyError::DataCorruption(DataCorruption::comment_only(detail))
}

fn name(dir: &Path) -> String {
    format!("full-text index {}", dir.display())
}

fn failed(error: TantivyError) -> Error {
    Error::Storage(format!("full-text index: {error}"))
}
