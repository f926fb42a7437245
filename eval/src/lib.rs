//! What retrieval is judged by: data sets as they are published, rankings, measures, reports. Nothing here embeds or searches.

pub mod dataset;
pub mod measures;
pub mod readers;
pub mod report;
pub mod results;
pub mod trec;
