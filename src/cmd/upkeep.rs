//! `firn verify` and `firn rebuild`: is everything whole, and make the derived state anew.

use firn_index::{Damage, Database, Status, VerifyReport};

use super::local;
use crate::{exit::Exit, settings::Settings};

/// Read everything, compare every checksum and count, and audit the index
///
/// Example: firn verify photos
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Collections [default: all]
    collections: Vec<String>,
}

/// Throw the index away and build it anew from the points
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
    for name in named_or_all(&db, &args.collections) {
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
        "{name}: {} points, {} vectors, {} segments read; {} vectors cannot find themselves; {} damages",
        report.points_checked,
        report.vectors_checked,
        report.segments_checked,
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
    for name in named_or_all(&db, &args.collections) {
        let report = db.collection(&name)?.rebuild()?;
        if !settings.json {
            println!(
                "{name}: {} segments with {} vectors built in {:.1} s; {} vectors needed new links",
                report.segments_built, report.vectors_indexed, report.seconds, report.vectors_repaired
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

fn named_or_all(db: &Database, named: &[String]) -> Vec<String> {
    if named.is_empty() { db.collections().into_iter().map(|c| c.name).collect() } else { named.to_vec() }
}
