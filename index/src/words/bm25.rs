//! How much a term counts (BM25 as in Lucene, k1 = 1.2, b = 0.75; Robertson and Zaragoza 2009), the same for what is buffered and for
//! what is on disk.

use std::collections::BTreeMap;

use tantivy::{
    Term,
    fieldnorm::FieldNormReader,
    query::{Bm25StatisticsProvider, Bm25Weight},
    schema::Field,
};

/// How often each term is asked for.
pub type Asked = BTreeMap<String, u32>;

/// What the weights of terms follow from. Rows that are dead but not yet removed are counted too.
pub struct Statistics {
    pub n_rows: u64,
    pub n_terms: u64,
    /// By term, rows that hold it.
    pub n_with: BTreeMap<String, u64>,
}

impl Statistics {
    /// The weight of a term that is asked for `count` times.
    pub fn weight(&self, term: &str, count: u32) -> Bm25Weight {
        let mean_length = self.n_terms as f32 / self.n_rows as f32;
        Bm25Weight::for_one_term_without_explain(self.n_with(term), self.n_rows, mean_length).boost_by(count as f32)
    }

    fn n_with(&self, term: &str) -> u64 {
        self.n_with.get(term).copied().unwrap_or(0)
    }
}

/// The length of a text in terms as it is kept, in one byte.
pub fn length_id(n_terms: u32) -> u8 {
    FieldNormReader::fieldnorm_to_id(n_terms)
}

impl Bm25StatisticsProvider for Statistics {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(self.n_terms)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.n_rows)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        Ok(term.value().as_str().map_or(0, |term| self.n_with(term)))
    }
}
