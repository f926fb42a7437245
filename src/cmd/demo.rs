//! `firn demo`: the whole path on pictures that firn draws itself.

mod families;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use firn_index::{Fields, PointId, Text};
use firn_model::scenes::{self, Sample, Style};

use super::{local, table};
use crate::{
    engine::Engine,
    exit::{Exit, Usage},
    query::{self, Answer, Content, Request, Rerank},
    settings::{FileLayer, Settings},
};

/// See firn work: draw pictures, ingest them, and find them by sentences in several languages
///
/// Example: firn demo
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Pictures to draw, 100 to 20000
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(100..=20_000))]
    pictures: u32,
    /// Where pictures and data go, whatever --data-dir says
    #[arg(long, default_value = "firn-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Hidden, since it is refused: the demo is for people
    #[arg(long, hide = true)]
    json: bool,
    /// Keep a server up on the demo's data
    #[arg(long)]
    serve: bool,
    #[command(flatten)]
    listen: crate::server::settings::ServeLayer,
}

const COLLECTION: &str = "samples";

/// Short ones that many pictures may answer.
const PHRASES: [(&str, &str); 2] = [("zwei grüne Fische", "de"), ("three red stars", "en")];

/// Which picture is asked for in which language, by a long caption in other words than the stored ones.
const QUESTIONS: [(usize, &str); 7] =
    [(3, "en"), (14, "de"), (25, "fr"), (36, "es"), (47, "zh"), (58, "ja"), (69, "ar")];

pub fn run(args: &DemoArgs, settings: &Settings) -> anyhow::Result<Exit> {
    if settings.json || args.json {
        return Err(Usage("the demo is for people; `firn query --json` prints JSON".to_owned()).into());
    }
    let file = FileLayer { server: None, ..settings.file.clone() };
    let settings = Settings { data_dir: args.dir.join("data"), file, ..settings.clone() };
    let samples: Vec<Sample> = draw(args.pictures as usize, &args.dir.join("pictures"))?;
    super::ingest::folder(&args.dir.join("pictures"), COLLECTION, None, &settings)?;
    {
        let engine = local::existing_engine(&settings)?;
        ask(&engine, &samples)?;
        engine.db().close()?;
    }
    families::show(&args.dir, &settings)?;
    print_how_to_go_on(args, &settings)?;
    if args.serve {
        return super::serve::run_with(&args.listen, &settings);
    }
    Ok(Exit::Ok)
}

/// Draws the sample set into a folder: `scene-00000.png` beside `scene-00000.json` with its captions.
fn draw(n: usize, folder: &Path) -> anyhow::Result<Vec<Sample>> {
    let start = Instant::now();
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let samples: Vec<Sample> = scenes::sample_set(n).collect();
    for sample in &samples {
        write(sample, folder).with_context(|| format!("{}: {}", folder.display(), sample.id))?;
    }
    let words: usize =
        samples.iter().flat_map(|s| &s.texts).map(|(language, text)| scenes::count_words(language, text)).sum();
    let captions: usize = samples.iter().map(|s| s.texts.len()).sum();
    eprintln!(
        "drew {n} pictures with {captions} captions in {} languages, {} words each on average, in {:.1} s: {}",
        scenes::LANGUAGES.len(),
        words / captions.max(1),
        start.elapsed().as_secs_f64(),
        folder.display()
    );
    Ok(samples)
}

fn write(sample: &Sample, folder: &Path) -> anyhow::Result<()> {
    let texts: Vec<_> =
        sample.texts.iter().map(|(language, text)| serde_json::json!({ "text": text, "language": language })).collect();
    let sidecar = serde_json::json!({ "id": sample.id, "texts": texts, "shows": shows(sample) });
    fs::write(folder.join(&sample.id).with_extension("json"), serde_json::to_vec(&sidecar)?)?;
    sample.picture.save(folder.join(&sample.id).with_extension("png"))?;
    Ok(())
}

/// Everything in the picture, such as "5 yellow cross, 1 red house".
fn shows(sample: &Sample) -> String {
    let group = |g: &scenes::Group| format!("{} {:?} {:?}", g.count, g.colour, g.shape).to_lowercase();
    sample.scene.groups.iter().map(group).collect::<Vec<_>>().join(", ")
}

/// Asks the demo's questions and prints an answer table each.
fn ask(engine: &Engine, samples: &[Sample]) -> anyhow::Result<()> {
    // The first use of a network makes its threads: that is no query's time.
    answer(engine, by_text("warm-up".to_owned(), "en"))?;
    let mut found = 0;
    for (index, language) in QUESTIONS {
        let text = samples[index].scene.caption_variant(language, Style::Long, 1);
        let n_words = scenes::count_words(language, &text);
        let title = format!("{n_words} words in {language}: \"{}\"", table::shorten(&text, 110));
        found += print(&title, &answer(engine, by_text(text, language))?, Some(&samples[index].id));
    }

    let drawn = &samples[91];
    let small = drawn.scene.draw(80);
    let mut bytes = std::io::Cursor::new(Vec::new());
    small.write_to(&mut bytes, image::ImageFormat::Png)?;
    let title = format!("an image: {} drawn anew at 80 pixels", drawn.id);
    found += print(&title, &answer(engine, Content::Image(bytes.into_inner()))?, Some(&drawn.id));
    println!("The picture that was meant came first {found} times in {}.\n", QUESTIONS.len() + 1);

    for (text, language) in PHRASES {
        print(&format!("\"{text}\" ({language})"), &answer(engine, by_text(text.to_owned(), language))?, None);
    }

    let id = &samples[0].id;
    let title = format!("a stored point: {id} ({})", shows(&samples[0]));
    print(&title, &answer(engine, Content::Id(PointId::Text(id.clone())))?, None);
    Ok(())
}

fn by_text(text: String, language: &str) -> Content {
    Content::Text(Text { text, language: language.to_owned() })
}

fn answer(engine: &Engine, content: Content) -> Result<Answer, query::Error> {
    ask_of(engine, (COLLECTION, 3), content, Rerank::default())
}

/// So many of the first hits of a collection.
fn ask_of(
    engine: &Engine,
    (collection, limit): (&str, usize),
    content: Content,
    rerank: Rerank,
) -> Result<Answer, query::Error> {
    let request = Request {
        collection: collection.into(),
        content,
        using: None,
        blend: None,
        full_text: None,
        limit: Some(limit),
        offset: 0,
        candidates: None,
        ef: None,
        exact: false,
        fields: Fields { payload: true, ..Default::default() },
        score_threshold: None,
        rerank,
        deadline: None,
        max_bytes: usize::MAX,
    };
    query::run(engine, &request)
}

/// Prints one answer; 1 if the picture that was meant is the first hit.
fn print(question: &str, answer: &Answer, meant: Option<&str>) -> usize {
    println!("{question}");
    let is_meant = |id: &PointId| meant.is_some_and(|meant| *id == PointId::Text(meant.to_owned()));
    let row = |(rank, hit): (usize, &query::Hit)| {
        let shows = hit.payload.get("shows").and_then(|v| v.as_str()).unwrap_or_default();
        let mark = if is_meant(&hit.id) { "*" } else { "" };
        vec![
            format!("  {}{mark}", rank + 1),
            format!("{:.3}", hit.score),
            hit.id.to_string(),
            table::shorten(shows, 90),
        ]
    };
    let rows: Vec<_> = answer.hits.iter().enumerate().map(row).collect();
    table::print(&["  #", "score", "picture", "shows"], &rows);
    println!("  {}\n", table::timings_line(answer));
    usize::from(answer.hits.first().is_some_and(|hit| is_meant(&hit.id)))
}

fn print_how_to_go_on(args: &DemoArgs, settings: &Settings) -> anyhow::Result<()> {
    // As it was called: it may not be installed yet.
    let firn = std::env::args().next().unwrap_or_else(|| "firn".to_owned());
    let listen = args.listen.clone().over(settings.file.serve.clone()).resolve()?.listen;
    // The server keeps the data directory to itself.
    let (place, more) = match args.serve {
        true if listen.ends_with(":0") => ("--server http://ADDRESS".to_owned(), String::new()),
        true => (format!("--server http://{listen}"), String::new()),
        false => (format!("--data-dir {}", settings.data_dir.display()), format!("  {firn} demo --serve\n")),
    };
    println!(
        "* the picture that was meant. All of them are in {}.\n\n\
         Go on:\n  \
           {firn} query {COLLECTION} {place} --text \"two green fish\"\n{more}  \
           {firn} ingest FOLDER --collection NAME        your own pictures and texts\n\n\
         The builtin model is small: it knows drawn scenes and emoji. Photographs want a real CLIP; name one with\n  \
           --model FOLDER  or  --model hf:openai/clip-vit-base-patch32",
        args.dir.join("pictures").display(),
    );
    Ok(())
}
