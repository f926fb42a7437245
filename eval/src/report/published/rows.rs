//! The figures themselves, image to text before text to image.

use super::{Asked, Figure, Row};

const URBAN1K: Asked = asked("urban1k", "first-line", "1,000 images with a caption each");
const URBAN1K_TUNED: Asked = asked("urban1k", "", "models are fine-tuned first");
const DCI: Asked = asked("dci", "flame", "all 7,805 images, short and extra caption in one");
const LONG_DCI: Asked = asked("dci", "long-dci", "only extra captions, images without one left out");
const DCI_GOAL: Asked = asked("dci", "goal", "1,999 images; models are fine-tuned on the train split first");
const DCI_LOWER: Asked = asked("dci", "", "perhaps only extra captions, in lower case, as the code of FG-CLIP 2 asks");
const DCI_OTHER: Asked =
    asked("dci", "", "other texts: beside these figures Long-CLIP L/14 has 64.1/67.8, in the others 57.0/63.9");
const DOCCI: Asked = asked("docci", "test", "the 5,000 images of the test split");
const DOCCI_GOAL: Asked =
    asked("docci", "test-and-qual", "5,100 images, test and qual_test; models are fine-tuned on the train split first");
const S4V_1K: Asked = asked("sharegpt4v", "1k", "the first 1,000 entries");
const S4V_10K: Asked =
    asked("sharegpt4v", "", "the first 10,000 entries, captions cut into sentences and joined anew by \". \"");
const COCO: Asked = asked("coco", "clip-benchmark", "Karpathy's 5,000 test images, files of CLIP benchmark");
const COCO_VAL: Asked = asked("coco", "", "all 5,000 images of val2017, not Karpathy's test split");
const COCO_UNSAID: Asked = asked("coco", "", "which split and files is not known");
const FLICKR: Asked = asked("flickr30k", "clip-benchmark", "Karpathy's 1,000 test images, files of CLIP benchmark");
const FLICKR_31K: Asked =
    asked("flickr30k", "", "all 31,783 images of results_20130124.token; Karpathy's list, of karpathy-31k, has 31,014");
const FLICKR_UNSAID: Asked = asked("flickr30k", "", "which split and files is not known");
const XM3600: Asked = asked("xm3600", "first", "mean of 36 languages, the first caption of each image");
const XM3600_UNSAID: Asked = asked("xm3600", "", "mean of 36 languages; which captions is not known");

const FLAME: &str = "FLAME (arXiv 2411.11927), README figure";
const FLAME_POSTER: &str = "FLAME (arXiv 2411.11927), poster";
const LOTLIP: &str = "LoTLIP (wuw2019/LoTLIP), README";
const LONG_CLIP: &str = "Long-CLIP (beichenzbc/Long-CLIP), model zoo";
const FG_CLIP: &str = "FG-CLIP (360CVGroup/FG-CLIP), table 3";
const LLM2CLIP: &str = "LLM2CLIP (microsoft/LLM2CLIP), project page";
const UNIME: &str = "UniME (deepglint/UniME), figure";
const FLAIR: &str = "FLAIR (ExplainableML/flair), README";
const SECOND_HAND: &str = "second-hand: as cited by a later paper";

/// Every figure, by data set and then as it was found.
pub const ROWS: &[Row] = &[
    // Urban-1k
    row("CLIP B/16, CC3M", URBAN1K, 10.7, 9.6, FLAME),
    row("Long-CLIP, CC3M + S4V", URBAN1K, 15.5, 18.5, FLAME),
    row("FLAME B/16, CC3M", URBAN1K, 65.3, 66.6, FLAME),
    row("CLIP, YFCC15M", URBAN1K, 30.4, 23.6, FLAME),
    row("Long-CLIP, YFCC15M + S4V", URBAN1K, 40.5, 46.1, FLAME),
    row("FLAME B/16, YFCC15M", URBAN1K, 84.0, 87.9, FLAME),
    row("CLIP B/16, WIT-400M", URBAN1K, 67.5, 53.3, FLAME),
    row("CLIP L/14, WIT-400M", URBAN1K, 68.5, 56.1, SECOND_HAND),
    row("Long-CLIP B/16", URBAN1K, 78.9, 79.5, LOTLIP),
    row("Long-CLIP L/14", URBAN1K, 82.5, 86.0, SECOND_HAND),
    row("LoTLIP B/32", URBAN1K, 84.1, 81.8, LOTLIP),
    row("LoTLIP B/16", URBAN1K, 88.8, 84.8, LOTLIP),
    row("TULIP L/14", URBAN1K, 88.1, 86.6, SECOND_HAND),
    between("FineLIP L/14 (two papers)", URBAN1K, [91.5, 93.2], [92.3, 93.0], SECOND_HAND),
    image_to_text("Fix-CLIP B/16, 30 M", URBAN1K, 90.8, SECOND_HAND),
    row("SmartCLIP B/16", URBAN1K, 90.0, 87.4, SECOND_HAND),
    between("SmartCLIP L/14", URBAN1K, [93.0, 93.3], [90.1, 90.1], SECOND_HAND),
    row("HiMo-CLIP L/14", URBAN1K, 93.0, 93.1, SECOND_HAND),
    row("HyFL-CLIP L/14", URBAN1K, 94.6, 94.3, SECOND_HAND),
    row("DeBias-CLIP B/16", URBAN1K, 93.1, 93.0, SECOND_HAND),
    row("DeBias-CLIP L/14", URBAN1K, 95.2, 95.2, SECOND_HAND),
    row("LLM2CLIP's model before it", URBAN1K, 68.0, 74.8, LLM2CLIP),
    row("LLM2CLIP, Llama-3.1-8B", URBAN1K, 86.5, 89.3, LLM2CLIP),
    row("LLM2CLIP L/14-336, 15 M", URBAN1K, 90.3, 93.2, SECOND_HAND),
    row("CS-Aligner L/14, Llama-3-8B", URBAN1K, 87.6, 92.2, SECOND_HAND),
    row("UniME LLaVA-1.6-7B", URBAN1K, 95.9, 95.2, UNIME),
    row("UniME-V2 Qwen2-VL-7B", URBAN1K, 96.3, 97.2, SECOND_HAND),
    image_to_text("ReMatch Qwen2-VL-7B", URBAN1K, 98.3, SECOND_HAND),
    row("HN-CLIP L/14, fine-tuned", URBAN1K_TUNED, 90.3, 91.1, SECOND_HAND),
    // DCI
    row("CLIP B/16, CC3M", DCI, 8.3, 7.5, FLAME),
    row("Long-CLIP, CC3M + S4V", DCI, 13.8, 14.2, FLAME),
    row("FLAME B/16, CC3M", DCI, 50.8, 49.3, FLAME),
    row("CLIP, YFCC15M", DCI, 22.0, 19.1, FLAME),
    row("Long-CLIP, YFCC15M + S4V", DCI, 29.4, 29.7, FLAME),
    row("FLAME B/16, YFCC15M", DCI, 66.1, 68.1, FLAME),
    row("CLIP B/16, WIT-400M", DCI, 45.4, 43.0, FLAME),
    row("CLIP L/14, WIT-400M", DCI, 44.8, 43.8, SECOND_HAND),
    row("Long-CLIP B/16", DCI, 51.7, 57.3, SECOND_HAND),
    row("Long-CLIP L/14", DCI, 57.0, 63.9, SECOND_HAND),
    row("LoTLIP B/32", DCI, 59.9, 56.4, LOTLIP),
    row("LoTLIP B/16", DCI, 64.1, 62.6, LOTLIP),
    row("Fix-CLIP B/16, 30 M", DCI, 70.7, 70.7, SECOND_HAND),
    row("SmartCLIP B/16", DCI, 64.9, 64.0, SECOND_HAND),
    row("SmartCLIP L/14", DCI, 68.2, 69.8, SECOND_HAND),
    row("DeBias-CLIP B/16", DCI, 68.5, 67.6, SECOND_HAND),
    row("DeBias-CLIP L/14", DCI, 72.8, 73.5, SECOND_HAND),
    row("TULIP L/14", LONG_DCI, 50.2, 50.6, SECOND_HAND),
    between("FineLIP L/14 (two papers)", LONG_DCI, [58.5, 60.8], [56.2, 60.7], SECOND_HAND),
    row("HiMo-CLIP L/14", LONG_DCI, 62.2, 61.9, SECOND_HAND),
    row("HyFL-CLIP L/14", LONG_DCI, 61.9, 63.9, SECOND_HAND),
    row("HN-CLIP L/14, fine-tuned", DCI_GOAL, 78.8, 80.7, SECOND_HAND),
    row("HiMo-CLIP L/14", DCI_OTHER, 74.6, 74.5, SECOND_HAND),
    row("HyFL-CLIP L/14", DCI_OTHER, 74.7, 76.2, SECOND_HAND),
    row("FG-CLIP B/16", DCI_LOWER, 61.8, 60.6, FG_CLIP),
    row("FG-CLIP L/14-336", DCI_LOWER, 66.7, 66.1, FG_CLIP),
    row("FG-CLIP 2 B", DCI_LOWER, 64.5, 64.9, FG_CLIP),
    row("FG-CLIP 2 L", DCI_LOWER, 70.0, 71.6, FG_CLIP),
    row("FG-CLIP 2 So", DCI_LOWER, 70.6, 72.1, FG_CLIP),
    row("SigLIP 2 B", DCI_LOWER, 32.3, 34.3, FG_CLIP),
    row("SigLIP 2 L", DCI_LOWER, 48.0, 49.3, FG_CLIP),
    row("SigLIP 2 So", DCI_LOWER, 46.0, 47.1, FG_CLIP),
    row("Meta CLIP 2 H/14", DCI_LOWER, 53.0, 50.2, FG_CLIP),
    // DOCCI
    row("CLIP B/16, CC3M", DOCCI, 8.6, 7.0, FLAME),
    row("Long-CLIP, CC3M + S4V", DOCCI, 14.7, 12.6, FLAME),
    row("FLAME B/16, CC3M", DOCCI, 54.5, 51.9, FLAME),
    row("CLIP, YFCC15M", DOCCI, 26.5, 23.3, FLAME),
    row("Long-CLIP, YFCC15M + S4V", DOCCI, 35.0, 33.5, FLAME),
    row("FLAME B/16, YFCC15M", DOCCI, 75.8, 76.2, FLAME),
    row("CLIP B/16, WIT-400M", DOCCI, 60.7, 57.0, FLAME),
    row("CLIP L/14, WIT-400M", DOCCI, 65.8, 63.0, SECOND_HAND),
    row("Long-CLIP B/16", DOCCI, 63.1, 71.4, SECOND_HAND),
    row("Long-CLIP L/14", DOCCI, 66.5, 78.6, SECOND_HAND),
    row("TULIP L/14", DOCCI, 75.5, 75.8, SECOND_HAND),
    between("FineLIP L/14 (two papers)", DOCCI, [78.2, 82.2], [79.4, 83.1], SECOND_HAND),
    row("SmartCLIP B/16", DOCCI, 77.4, 78.0, SECOND_HAND),
    row("SmartCLIP L/14", DOCCI, 81.6, 82.5, SECOND_HAND),
    row("HiMo-CLIP L/14", DOCCI, 82.4, 84.4, SECOND_HAND),
    row("HyFL-CLIP L/14", DOCCI, 82.1, 85.4, SECOND_HAND),
    row("DeBias-CLIP B/16", DOCCI, 79.7, 80.0, SECOND_HAND),
    row("DeBias-CLIP L/14", DOCCI, 85.2, 85.6, SECOND_HAND),
    row("LLM2CLIP's model before it", DOCCI, 67.0, 71.3, LLM2CLIP),
    row("LLM2CLIP, Llama-3.1-8B", DOCCI, 84.7, 85.9, LLM2CLIP),
    row("LLM2CLIP L/14-336, 15 M", DOCCI, 87.7, 89.0, SECOND_HAND),
    row("CS-Aligner L/14, Llama-3-8B", DOCCI, 86.6, 89.1, SECOND_HAND),
    row("HN-CLIP L/14, fine-tuned", DOCCI_GOAL, 86.2, 88.3, SECOND_HAND),
    // ShareGPT4V
    row("CLIP B/16, CC3M", S4V_1K, 21.4, 20.2, FLAME),
    row("Long-CLIP, CC3M + S4V", S4V_1K, 51.3, 46.1, FLAME),
    row("FLAME B/16, CC3M", S4V_1K, 85.6, 80.0, FLAME),
    row("CLIP, YFCC15M", S4V_1K, 57.1, 45.9, FLAME),
    row("Long-CLIP, YFCC15M + S4V", S4V_1K, 77.2, 77.6, FLAME),
    row("FLAME B/16, YFCC15M", S4V_1K, 94.1, 93.2, FLAME),
    row("CLIP B/16, WIT-400M", S4V_1K, 78.2, 79.6, FLAME),
    row("CLIP L/14, WIT-400M", S4V_1K, 81.8, 84.0, SECOND_HAND),
    row("Long-CLIP B/16", S4V_1K, 94.7, 93.4, SECOND_HAND),
    row("Long-CLIP L/14", S4V_1K, 95.8, 95.6, SECOND_HAND),
    image_to_text("Fix-CLIP B/16, 30 M", S4V_1K, 98.6, SECOND_HAND),
    row("SmartCLIP L/14", S4V_1K, 97.9, 98.5, SECOND_HAND),
    row("FG-CLIP B/16", S4V_1K, 96.7, 94.9, FG_CLIP),
    row("FG-CLIP L/14-336", S4V_1K, 97.4, 96.8, FG_CLIP),
    row("FG-CLIP 2 B", S4V_1K, 95.8, 95.4, FG_CLIP),
    row("FG-CLIP 2 L", S4V_1K, 96.9, 96.6, FG_CLIP),
    row("FG-CLIP 2 So", S4V_1K, 97.5, 96.7, FG_CLIP),
    row("SigLIP 2 B", S4V_1K, 66.0, 67.9, FG_CLIP),
    row("SigLIP 2 L", S4V_1K, 85.1, 84.6, FG_CLIP),
    row("SigLIP 2 So", S4V_1K, 78.6, 79.5, FG_CLIP),
    row("Meta CLIP 2 H/14", S4V_1K, 93.9, 89.2, FG_CLIP),
    row("LLM2CLIP's model before it", S4V_1K, 88.1, 87.7, LLM2CLIP),
    row("LLM2CLIP, Llama-3.1-8B", S4V_1K, 97.1, 96.2, LLM2CLIP),
    row("LLM2CLIP L/14-336, 15 M", S4V_1K, 98.1, 98.4, SECOND_HAND),
    row("UniME LLaVA-1.6-7B", S4V_1K, 97.2, 93.9, UNIME),
    row("UniME-V2 Qwen2-VL-7B", S4V_1K, 95.1, 94.3, SECOND_HAND),
    row("LoTLIP B/32", S4V_10K, 83.8, 79.0, LOTLIP),
    row("LoTLIP B/16", S4V_10K, 88.4, 82.7, LOTLIP),
    // COCO
    row("MLLM-A, CC3M", COCO, 35.9, 26.5, FLAME_POSTER),
    row("DreamLIP, CC3M", COCO, 39.9, 29.8, FLAME_POSTER),
    row("FLAME B/16, CC3M", COCO, 43.3, 28.6, FLAME_POSTER),
    row("CLIP, YFCC15M", COCO, 30.7, 19.1, FLAME_POSTER),
    row("SoftCLIP, YFCC15M", COCO, 30.9, 19.2, FLAME_POSTER),
    row("DreamLIP, YFCC15M", COCO, 55.8, 42.3, FLAME_POSTER),
    row("FLAME B/16, YFCC15M", COCO, 60.5, 43.9, FLAME_POSTER),
    row("CLIP B/16, WIT-400M", COCO, 52.4, 33.1, FLAME_POSTER),
    row("Long-CLIP B/16", COCO_VAL, 57.2, 40.4, LONG_CLIP),
    row("Long-CLIP L/14", COCO_VAL, 58.3, 45.1, LONG_CLIP),
    row("FLAIR-30M B/16", COCO_UNSAID, 68.0, 53.3, FLAIR),
    // Flickr30k
    row("MLLM-A, CC3M", FLICKR, 63.5, 49.3, FLAME_POSTER),
    row("DreamLIP, CC3M", FLICKR, 66.8, 50.7, FLAME_POSTER),
    row("FLAME B/16, CC3M", FLICKR, 67.3, 53.6, FLAME_POSTER),
    row("CLIP, YFCC15M", FLICKR, 54.9, 37.2, FLAME_POSTER),
    row("SoftCLIP, YFCC15M", FLICKR, 56.2, 37.2, FLAME_POSTER),
    row("DreamLIP, YFCC15M", FLICKR, 84.9, 65.3, FLAME_POSTER),
    row("FLAME B/16, YFCC15M", FLICKR, 86.4, 73.3, FLAME_POSTER),
    row("CLIP B/16, WIT-400M", FLICKR, 81.9, 62.1, FLAME_POSTER),
    row("Long-CLIP B/16", FLICKR_31K, 47.2, 33.1, LONG_CLIP),
    row("Long-CLIP L/14", FLICKR_31K, 48.8, 39.4, LONG_CLIP),
    row("FLAIR-30M B/16", FLICKR_UNSAID, 94.7, 81.1, FLAIR),
    // Crossmodal-3600
    row("CLIP B/16, WIT-400M", XM3600, 7.37, 4.53, FLAME),
    row("mSigLIP", XM3600, 47.40, 34.40, FLAME),
    row("FLAME B/16, YFCC15M", XM3600, 51.72, 49.00, FLAME),
    row("SigLIP 2", XM3600_UNSAID, 59.7, 48.2, LLM2CLIP),
    row("LLM2CLIP, SigLIP 2", XM3600_UNSAID, 69.1, 56.3, LLM2CLIP),
    row("EVA-L", XM3600_UNSAID, 14.0, 8.0, LLM2CLIP),
    row("LLM2CLIP, EVA-L", XM3600_UNSAID, 68.3, 56.0, LLM2CLIP),
];

const fn asked(dataset: &'static str, protocol: &'static str, about: &'static str) -> Asked {
    Asked { dataset, protocol, about }
}

const fn row(method: &'static str, asked: Asked, to_query: f64, to_document: f64, source: &'static str) -> Row {
    between(method, asked, [to_query, to_query], [to_document, to_document], source)
}

const fn image_to_text(method: &'static str, asked: Asked, to_query: f64, source: &'static str) -> Row {
    Row { to_document: None, ..row(method, asked, to_query, to_query, source) }
}

const fn between(
    method: &'static str,
    asked: Asked,
    to_query: [f64; 2],
    to_document: [f64; 2],
    source: &'static str,
) -> Row {
    let to_query = Some(Figure { low: to_query[0], high: to_query[1] });
    let to_document = Some(Figure { low: to_document[0], high: to_document[1] });
    Row { method, asked, to_query, to_document, source }
}
