//! `firn verify` and `firn rebuild`: is everything whole, and make the derived state anew.

use firn_index::{Damage, Database, Status, VerifyReport};

use super::{local, table::counted};
use crate::{exit::Exit, settings::Settings};

/// Read everything, compare every checksum and count, and audit the index
///
/// Example: firn verify photos
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Collections [default: all]
    collections: Vec<String>,
}

/// Throw the index and the full text away and build them anew from the points
///
/// Example: firn rebuild photos
#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// Collections [default: all]
    collections: Vec<String>,
}

pub fn verify(args: &VerifyArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let db = local::database(settings)?;
    let mut whole = true;
    let mut reports = serde_json::Map::new();
    for name in named_or_all(&db, &args.collections)? {
        let report = verify_one(&db, &name)?;
        whole &= report.damages.is_empty() && report.unreachable_vectors == 0;
        if !settings.json {
            print_report(&name, &report);
        }
        reports.insert(name, serde_json::to_value(&report)?);
    }
    if settings.json {
        println!("{}", serde_json::json!({ "whole": whole, "collections": reports }));
    }
    db.close()?;
    Ok(if whole { Exit::Ok } else { Exit::Damaged })
}

/// A quarantined collection is not read again: the reason is the report.
fn verify_one(db: &Database, name: &str) -> anyhow::Result<VerifyReport> {
    if let Status::Quarantined(reason) = db.collection_info(name)?.status {
        let damage = Damage { what: format!("collection {name}"), detail: reason };
        return Ok(VerifyReport { damages: vec![damage], ..Default::default() });
    }
    Ok(db.collection(name)?.verify()?)
}

fn print_report(name: &str, report: &VerifyReport) {
    println!(
        "{name}: {}, {}, {}, {}, {} and {} read; {} cannot find themselves; {} damages",
        counted(report.points_checked as usize, "point"),
        counted(report.vectors_checked as usize, "vector"),
        counted(report.tokens_checked as usize, "token sequence"),
        counted(report.attachments_checked as usize, "attachment"),
        counted(report.segments_checked as usize, "segment"),
        counted(report.texts_checked as usize, "indexed text"),
        report.unreachable_vectors,
        report.damages.len()
    );
    for damage in &report.damages {
        println!("  {}: {}", damage.what, damage.detail);
    }
}

pub fn rebuild(args: &RebuildArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let db = local::database(settings)?;
    let mut reports = serde_json::Map::new();
    for name in named_or_all(&db, &args.collections)? {
        let report = db.collection(&name)?.rebuild()?;
        if !settings.json {
            println!(
                "{name}: {} with {} and full text of {} built in {:.1} s; {} needed new links",
                counted(report.segments_built as usize, "segment"),
                counted(report.vectors_indexed as usize, "vector"),
                counted(report.texts_indexed as usize, "point"),
                report.seconds,
                report.vectors_repaired
            );
        }
        reports.insert(name, serde_json::to_value(&report)?);
    }
    if settings.json {
        println!("{}", serde_json::json!({ "collections": reports }));
    }
    db.close()?;
    Ok(Exit::Ok)
}

/// An unknown name is told before any work is done.
fn named_or_all(db: &Database, named: &[String]) -> anyhow::Result<Vec<String>> {
    if named.is_empty() {
        return Ok(db.collections().into_iter().map(|c| c.name).collect());
    }
    Ok(named.iter().map(|name| db.collection_info(name).map(|info| info.name)).collect::<Result<_, _>>()?)
}
