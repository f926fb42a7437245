//! The table of data sets: their protocols, and how many documents and texts are published for each.

use std::ops::RangeInclusive;

use super::{DataSet, Protocol, clip_benchmark, dci, docci, iiw, jsonl, karpathy, sharegpt4v, urban1k, xm3600};

/// How many there are by what is published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub documents: RangeInclusive<usize>,
    pub texts: RangeInclusive<usize>,
}

const fn published(documents: usize, texts: usize) -> Option<Published> {
    Some(Published { documents: documents..=documents, texts: texts..=texts })
}

const fn pairs(n: usize) -> Option<Published> {
    published(n, n)
}

pub(super) static DATA_SETS: [DataSet; 10] = [
    DataSet {
        name: "urban1k",
        about: "Urban-1k (Long-CLIP): photos of cities, each with a long description",
        protocols: &[Protocol {
            name: "first-line",
            about: "image/{n}.jpg and the first line of caption/{n}.txt",
            published: pairs(1_000),
            read: urban1k::read,
        }],
    },
    DataSet {
        name: "dci",
        about: "Densely Captioned Images: photos of SA-1B, each with a long description",
        protocols: &[
            Protocol {
                name: "flame",
                about: "all splits; the short and the extra caption in one, sentences joined anew, as FLAME and LoTLIP do",
                published: pairs(7_805),
                read: dci::flame,
            },
            Protocol {
                name: "long-dci",
                about: "all annotations with an extra caption, and that only, as TULIP does (7,602 in one rebuild)",
                published: Some(Published { documents: 7_000..=7_805, texts: 7_000..=7_805 }),
                read: dci::long,
            },
            Protocol {
                name: "goal",
                about: "the pictures and captions of GOAL's DCI_test.json",
                published: pairs(1_999),
                read: dci::goal,
            },
        ],
    },
    DataSet {
        name: "docci",
        about: "Descriptions of Connected and Contrasting Images: photos, each with a long description",
        protocols: &[
            Protocol {
                name: "test",
                about: "docci_descriptions.jsonlines, the split test, line breaks as spaces",
                published: pairs(5_000),
                read: docci::test,
            },
            Protocol {
                name: "test-and-qual",
                about: "docci_descriptions.jsonlines or docci_test.json, test and qual_test, line breaks as spaces, as GOAL does",
                published: pairs(5_100),
                read: docci::test_and_qual,
            },
        ],
    },
    DataSet {
        name: "sharegpt4v",
        about: "ShareGPT4V: pictures, each with a long description by a model",
        protocols: &[
            Protocol {
                name: "1k",
                about: "the first 1,000 entries of the share-captioner file, line breaks as spaces, as Long-CLIP does",
                published: pairs(1_000),
                read: sharegpt4v::first_1k,
            },
            Protocol {
                name: "10k",
                about: "the first 10,000 entries of the share-captioner file, line breaks as spaces",
                published: pairs(10_000),
                read: sharegpt4v::first_10k,
            },
        ],
    },
    DataSet {
        name: "iiw",
        about: "ImageInWords: photos, each with a very long description by people",
        protocols: &[
            Protocol {
                name: "all",
                about: "{DCI_Test,DOCCI_Test,IIW-400}/data.jsonl, sentences joined anew, as LoTLIP does",
                published: pairs(612),
                read: iiw::all,
            },
            Protocol {
                name: "dci-test",
                about: "DCI_Test/data.jsonl alone, sentences joined anew",
                published: pairs(112),
                read: iiw::dci_test,
            },
            Protocol {
                name: "docci-test",
                about: "DOCCI_Test/data.jsonl alone, sentences joined anew",
                published: pairs(100),
                read: iiw::docci_test,
            },
            Protocol {
                name: "iiw-400",
                about: "IIW-400/data.jsonl alone, sentences joined anew",
                published: pairs(400),
                read: iiw::iiw_400,
            },
        ],
    },
    DataSet {
        name: "iiw-text",
        about: "ImageInWords without its pictures: texts look for long descriptions",
        protocols: &[
            Protocol {
                name: "objects",
                about: "the description of one object looks for the long description of its picture",
                published: None,
                read: iiw::objects,
            },
            Protocol {
                name: "others",
                about: "another's long description (DOCCI's people, or a model) looks for the one of the same picture",
                published: None,
                read: iiw::others,
            },
        ],
    },
    DataSet {
        name: "flickr30k",
        about: "Flickr30k: photos, each with five short captions",
        protocols: &[
            Protocol {
                name: "karpathy",
                about: "the split test of dataset_flickr30k.json, the first five sentences of each",
                published: published(1_000, 5_000),
                read: karpathy::flickr30k_test,
            },
            Protocol {
                name: "clip-benchmark",
                about: "flickr30k_test_karpathy.txt, all captions",
                published: published(1_000, 5_000),
                read: clip_benchmark::flickr30k,
            },
            Protocol {
                name: "karpathy-31k",
                about: "all splits of dataset_flickr30k.json, the first five sentences of each; Long-CLIP asks with some 770 pictures more",
                published: published(31_014, 155_070),
                read: karpathy::flickr30k_all,
            },
        ],
    },
    DataSet {
        name: "coco",
        about: "COCO: photos, each with five short captions",
        protocols: &[
            Protocol {
                name: "karpathy",
                about: "the split test of dataset_coco.json, the first five sentences of each",
                published: published(5_000, 25_000),
                read: karpathy::coco_test,
            },
            Protocol {
                name: "clip-benchmark",
                about: "coco_test_karpathy.json, all captions",
                published: published(5_000, 25_010),
                read: clip_benchmark::coco,
            },
        ],
    },
    DataSet {
        name: "xm3600",
        about: "Crossmodal-3600: photos from all over the world with captions in 36 languages",
        protocols: &[
            Protocol {
                name: "first",
                about: "captions.jsonl, the first caption in each language, as CLIP_benchmark does",
                published: published(3_600, 3_600 * 36),
                read: xm3600::first,
            },
            Protocol {
                name: "all",
                about: "captions.jsonl, all captions in each language",
                published: published(3_600, 261_375),
                read: xm3600::all,
            },
        ],
    },
    DataSet {
        name: "jsonl",
        about: "your own: one JSON object a line with id, image or document, and text, caption or texts",
        protocols: &[Protocol {
            name: "rows",
            about: "all rows but those whose split is train",
            published: None,
            read: jsonl::read,
        }],
    },
];
