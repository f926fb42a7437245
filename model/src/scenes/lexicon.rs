//! Word tables, and how each language puts number, size, pattern, colour and noun together.
//!
//! Tables follow the order of `Shape::ALL`, `Colour::ALL` and `Tone::ALL`.

use super::{Group, Pattern, Size};

/// The role of a noun phrase in its sentence. Only German and Arabic tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Nominative,
    /// What is seen.
    Object,
    /// What something else is beside, above or below.
    Beside,
}

/// "two small red stars". Without `detail` size and pattern stay unsaid.
pub fn noun_phrase(language: &str, group: &Group, case: Case, detail: bool) -> String {
    let mut group = group.clone();
    if !detail {
        (group.size, group.pattern) = (Size::Medium, Pattern::Plain);
    }
    match language {
        "de" => german(&group, case),
        "fr" => romance(&FRENCH, &group),
        "es" => romance(&SPANISH, &group),
        "it" => romance(&ITALIAN, &group),
        "pt" => romance(&PORTUGUESE, &group),
        "nl" => dutch(&group),
        "zh" => chinese(&group),
        "ja" => japanese(&group),
        "ar" => arabic(&group, case),
        _ => english(&group),
    }
}

fn join(words: &[&str]) -> String {
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn of_size<T: Default>(size: Size, small: T, large: T) -> T {
    match size {
        Size::Small => small,
        Size::Medium => T::default(),
        Size::Large => large,
    }
}

fn of_pattern<T: Default>(pattern: Pattern, striped: T, dotted: T) -> T {
    match pattern {
        Pattern::Plain => T::default(),
        Pattern::Striped => striped,
        Pattern::Dotted => dotted,
    }
}

fn english(group: &Group) -> String {
    let (one, many) = ENGLISH_NOUNS[group.shape as usize];
    let described = join(&[
        of_size(group.size, "small", "large"),
        ENGLISH_COLOURS[group.colour as usize],
        of_pattern(group.pattern, "striped", "dotted"),
        if group.count == 1 { one } else { many },
    ]);
    let number = match group.count {
        1 if described.starts_with(['a', 'e', 'i', 'o', 'u']) => "an",
        n => ["a", "two", "three", "four", "five", "six"][usize::from(n - 1)],
    };
    join(&[number, &described])
}

fn german(group: &Group, case: Case) -> String {
    let (gender, one, many, many_dative) = GERMAN_NOUNS[group.shape as usize];
    let single = group.count == 1;
    let (article, ending) = match (single, case, gender) {
        (true, Case::Nominative, 'm') => ("ein", "er"),
        (true, Case::Object, 'm') => ("einen", "en"),
        (true, Case::Beside, 'f') => ("einer", "en"),
        (true, Case::Beside, _) => ("einem", "en"),
        (true, _, 'f') => ("eine", "e"),
        (true, _, _) => ("ein", "es"),
        (false, Case::Beside, _) => ("", "en"),
        (false, _, _) => ("", "e"),
    };
    let number =
        if single { article } else { ["zwei", "drei", "vier", "fünf", "sechs"][usize::from(group.count - 2)] };
    let noun = match (single, case) {
        (true, _) => one,
        (false, Case::Beside) => many_dative,
        (false, _) => many,
    };
    let decline = |stem: &str| if stem.is_empty() { String::new() } else { format!("{stem}{ending}") };
    join(&[
        number,
        &decline(of_size(group.size, "klein", "groß")),
        &decline(of_pattern(group.pattern, "gestreift", "gepunktet")),
        &decline(GERMAN_COLOURS[group.colour as usize]),
        noun,
    ])
}

/// Adjectives as masculine, feminine, masculine plural, feminine plural.
type Forms = [&'static str; 4];

struct Romance {
    numbers: [&'static str; 6],
    numbers_feminine: [&'static str; 6],
    nouns: [(char, &'static str, &'static str); 16],
    colours: [Forms; 12],
    small: Forms,
    large: Forms,
    size_comes_first: bool,
    striped: &'static str,
    dotted: &'static str,
}

fn romance(words: &Romance, group: &Group) -> String {
    let (gender, one, many) = words.nouns[group.shape as usize];
    let feminine = gender == 'f';
    let form = usize::from(feminine) + if group.count == 1 { 0 } else { 2 };
    let number = if feminine { &words.numbers_feminine } else { &words.numbers }[usize::from(group.count - 1)];
    let size = of_size(group.size, words.small[form], words.large[form]);
    let (before, after) = if words.size_comes_first { (size, "") } else { ("", size) };
    let noun = if group.count == 1 { one } else { many };
    let colour = words.colours[group.colour as usize][form];
    join(&[number, before, noun, after, colour, of_pattern(group.pattern, words.striped, words.dotted)])
}

fn dutch(group: &Group) -> String {
    let (gender, one, many) = DUTCH_NOUNS[group.shape as usize];
    let form = usize::from(!(gender == 'n' && group.count == 1));
    let adjective = |forms: [&'static str; 2]| forms[form];
    join(&[
        ["een", "twee", "drie", "vier", "vijf", "zes"][usize::from(group.count - 1)],
        adjective(of_size(group.size, ["klein", "kleine"], ["groot", "grote"])),
        adjective(DUTCH_COLOURS[group.colour as usize]),
        adjective(of_pattern(group.pattern, ["gestreept", "gestreepte"], ["gestippeld", "gestippelde"])),
        if group.count == 1 { one } else { many },
    ])
}

fn chinese(group: &Group) -> String {
    let (measure, noun) = CHINESE_NOUNS[group.shape as usize];
    let number = ["一", "两", "三", "四", "五", "六"][usize::from(group.count - 1)];
    let pattern = of_pattern(group.pattern, "带条纹的", "带圆点的");
    let colour = CHINESE_COLOURS[group.colour as usize];
    format!("{number}{measure}{pattern}{colour}的{}{noun}", of_size(group.size, "小", "大"))
}

fn japanese(group: &Group) -> String {
    let (counter, noun) = JAPANESE_NOUNS[group.shape as usize];
    let number = ["一", "二", "三", "四", "五", "六"][usize::from(group.count - 1)];
    let size = of_size(group.size, "小さな", "大きな");
    let pattern = of_pattern(group.pattern, "縞模様の", "水玉模様の");
    format!("{number}{counter}の{size}{pattern}{}{noun}", JAPANESE_COLOURS[group.colour as usize])
}

fn arabic(group: &Group, case: Case) -> String {
    let (gender, one, many) = ARABIC_NOUNS[group.shape as usize];
    let feminine = gender == 'f';
    let dual = |word: &str| arabic_dual(word, case == Case::Beside);
    let (number, noun) = match (group.count, feminine) {
        (1, _) => ("", one.to_owned()),
        (2, _) => ("", dual(one)),
        (n, true) => (["ثلاث", "أربع", "خمس", "ست"][usize::from(n - 3)], many.to_owned()),
        (n, false) => (["ثلاثة", "أربعة", "خمسة", "ستة"][usize::from(n - 3)], many.to_owned()),
    };
    let adjective = |[masculine, of_feminine]: [&str; 2]| match group.count {
        _ if masculine.is_empty() => String::new(),
        1 | 2 => {
            let single = if feminine { of_feminine } else { masculine };
            if group.count == 2 { dual(single) } else { single.to_owned() }
        }
        // Plurals of things take the feminine singular.
        _ => of_feminine.to_owned(),
    };
    join(&[
        number,
        &noun,
        &adjective(ARABIC_COLOURS[group.colour as usize]),
        &adjective(of_pattern(group.pattern, ["مخطط", "مخططة"], ["منقط", "منقطة"])),
        &adjective(of_size(group.size, ["صغير", "صغيرة"], ["كبير", "كبيرة"])),
    ])
}

fn arabic_dual(word: &str, oblique: bool) -> String {
    let ending = if oblique { "ين" } else { "ان" };
    if let Some(stem) = word.strip_suffix('ة') {
        return format!("{stem}ت{ending}");
    }
    match word.strip_suffix('ء') {
        Some(stem) => format!("{stem}و{ending}"),
        None => format!("{word}{ending}"),
    }
}

const ENGLISH_NOUNS: [(&str, &str); 16] = [
    ("ball", "balls"),
    ("square", "squares"),
    ("triangle", "triangles"),
    ("star", "stars"),
    ("heart", "hearts"),
    ("ring", "rings"),
    ("cross", "crosses"),
    ("hexagon", "hexagons"),
    ("crescent moon", "crescent moons"),
    ("diamond", "diamonds"),
    ("flower", "flowers"),
    ("house", "houses"),
    ("tree", "trees"),
    ("fish", "fish"),
    ("boat", "boats"),
    ("cloud", "clouds"),
];
const ENGLISH_COLOURS: [&str; 12] =
    ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "turquoise"];

const GERMAN_NOUNS: [(char, &str, &str, &str); 16] = [
    ('m', "Ball", "Bälle", "Bällen"),
    ('n', "Quadrat", "Quadrate", "Quadraten"),
    ('n', "Dreieck", "Dreiecke", "Dreiecken"),
    ('m', "Stern", "Sterne", "Sternen"),
    ('n', "Herz", "Herzen", "Herzen"),
    ('m', "Ring", "Ringe", "Ringen"),
    ('n', "Kreuz", "Kreuze", "Kreuzen"),
    ('n', "Sechseck", "Sechsecke", "Sechsecken"),
    ('m', "Halbmond", "Halbmonde", "Halbmonden"),
    ('f', "Raute", "Rauten", "Rauten"),
    ('f', "Blume", "Blumen", "Blumen"),
    ('n', "Haus", "Häuser", "Häusern"),
    ('m', "Baum", "Bäume", "Bäumen"),
    ('m', "Fisch", "Fische", "Fischen"),
    ('n', "Boot", "Boote", "Booten"),
    ('f', "Wolke", "Wolken", "Wolken"),
];
const GERMAN_COLOURS: [&str; 12] = [
    "rot",
    "orangefarben",
    "gelb",
    "grün",
    "blau",
    "violett",
    "rosafarben",
    "braun",
    "schwarz",
    "weiß",
    "grau",
    "türkisfarben",
];

const FRENCH: Romance = Romance {
    numbers: ["un", "deux", "trois", "quatre", "cinq", "six"],
    numbers_feminine: ["une", "deux", "trois", "quatre", "cinq", "six"],
    nouns: [
        ('m', "ballon", "ballons"),
        ('m', "carré", "carrés"),
        ('m', "triangle", "triangles"),
        ('f', "étoile", "étoiles"),
        ('m', "cœur", "cœurs"),
        ('m', "anneau", "anneaux"),
        ('f', "croix", "croix"),
        ('m', "hexagone", "hexagones"),
        ('m', "croissant de lune", "croissants de lune"),
        ('m', "losange", "losanges"),
        ('f', "fleur", "fleurs"),
        ('f', "maison", "maisons"),
        ('m', "arbre", "arbres"),
        ('m', "poisson", "poissons"),
        ('m', "bateau", "bateaux"),
        ('m', "nuage", "nuages"),
    ],
    colours: [
        ["rouge", "rouge", "rouges", "rouges"],
        ["orange", "orange", "orange", "orange"],
        ["jaune", "jaune", "jaunes", "jaunes"],
        ["vert", "verte", "verts", "vertes"],
        ["bleu", "bleue", "bleus", "bleues"],
        ["violet", "violette", "violets", "violettes"],
        ["rose", "rose", "roses", "roses"],
        ["marron", "marron", "marron", "marron"],
        ["noir", "noire", "noirs", "noires"],
        ["blanc", "blanche", "blancs", "blanches"],
        ["gris", "grise", "gris", "grises"],
        ["turquoise", "turquoise", "turquoise", "turquoise"],
    ],
    small: ["petit", "petite", "petits", "petites"],
    large: ["grand", "grande", "grands", "grandes"],
    size_comes_first: true,
    striped: "à rayures",
    dotted: "à pois",
};

const SPANISH: Romance = Romance {
    numbers: ["un", "dos", "tres", "cuatro", "cinco", "seis"],
    numbers_feminine: ["una", "dos", "tres", "cuatro", "cinco", "seis"],
    nouns: [
        ('f', "pelota", "pelotas"),
        ('m', "cuadrado", "cuadrados"),
        ('m', "triángulo", "triángulos"),
        ('f', "estrella", "estrellas"),
        ('m', "corazón", "corazones"),
        ('m', "anillo", "anillos"),
        ('f', "cruz", "cruces"),
        ('m', "hexágono", "hexágonos"),
        ('f', "media luna", "medias lunas"),
        ('m', "rombo", "rombos"),
        ('f', "flor", "flores"),
        ('f', "casa", "casas"),
        ('m', "árbol", "árboles"),
        ('m', "pez", "peces"),
        ('m', "barco", "barcos"),
        ('f', "nube", "nubes"),
    ],
    colours: [
        ["rojo", "roja", "rojos", "rojas"],
        ["naranja", "naranja", "naranjas", "naranjas"],
        ["amarillo", "amarilla", "amarillos", "amarillas"],
        ["verde", "verde", "verdes", "verdes"],
        ["azul", "azul", "azules", "azules"],
        ["morado", "morada", "morados", "moradas"],
        ["rosa", "rosa", "rosas", "rosas"],
        ["marrón", "marrón", "marrones", "marrones"],
        ["negro", "negra", "negros", "negras"],
        ["blanco", "blanca", "blancos", "blancas"],
        ["gris", "gris", "grises", "grises"],
        ["turquesa", "turquesa", "turquesas", "turquesas"],
    ],
    small: ["pequeño", "pequeña", "pequeños", "pequeñas"],
    large: ["grande", "grande", "grandes", "grandes"],
    size_comes_first: false,
    striped: "a rayas",
    dotted: "de lunares",
};

const ITALIAN: Romance = Romance {
    numbers: ["un", "due", "tre", "quattro", "cinque", "sei"],
    numbers_feminine: ["una", "due", "tre", "quattro", "cinque", "sei"],
    nouns: [
        ('f', "palla", "palle"),
        ('m', "quadrato", "quadrati"),
        ('m', "triangolo", "triangoli"),
        ('f', "stella", "stelle"),
        ('m', "cuore", "cuori"),
        ('m', "anello", "anelli"),
        ('f', "croce", "croci"),
        ('m', "esagono", "esagoni"),
        ('f', "mezzaluna", "mezzelune"),
        ('m', "rombo", "rombi"),
        ('m', "fiore", "fiori"),
        ('f', "casa", "case"),
        ('m', "albero", "alberi"),
        ('m', "pesce", "pesci"),
        ('f', "barca", "barche"),
        ('f', "nuvola", "nuvole"),
    ],
    colours: [
        ["rosso", "rossa", "rossi", "rosse"],
        ["arancione", "arancione", "arancioni", "arancioni"],
        ["giallo", "gialla", "gialli", "gialle"],
        ["verde", "verde", "verdi", "verdi"],
        ["blu", "blu", "blu", "blu"],
        ["viola", "viola", "viola", "viola"],
        ["rosa", "rosa", "rosa", "rosa"],
        ["marrone", "marrone", "marroni", "marroni"],
        ["nero", "nera", "neri", "nere"],
        ["bianco", "bianca", "bianchi", "bianche"],
        ["grigio", "grigia", "grigi", "grigie"],
        ["turchese", "turchese", "turchesi", "turchesi"],
    ],
    small: ["piccolo", "piccola", "piccoli", "piccole"],
    large: ["grande", "grande", "grandi", "grandi"],
    size_comes_first: true,
    striped: "a righe",
    dotted: "a pois",
};

const PORTUGUESE: Romance = Romance {
    numbers: ["um", "dois", "três", "quatro", "cinco", "seis"],
    numbers_feminine: ["uma", "duas", "três", "quatro", "cinco", "seis"],
    nouns: [
        ('f', "bola", "bolas"),
        ('m', "quadrado", "quadrados"),
        ('m', "triângulo", "triângulos"),
        ('f', "estrela", "estrelas"),
        ('m', "coração", "corações"),
        ('m', "anel", "anéis"),
        ('f', "cruz", "cruzes"),
        ('m', "hexágono", "hexágonos"),
        ('f', "meia-lua", "meias-luas"),
        ('m', "losango", "losangos"),
        ('f', "flor", "flores"),
        ('f', "casa", "casas"),
        ('f', "árvore", "árvores"),
        ('m', "peixe", "peixes"),
        ('m', "barco", "barcos"),
        ('f', "nuvem", "nuvens"),
    ],
    colours: [
        ["vermelho", "vermelha", "vermelhos", "vermelhas"],
        ["laranja", "laranja", "laranja", "laranja"],
        ["amarelo", "amarela", "amarelos", "amarelas"],
        ["verde", "verde", "verdes", "verdes"],
        ["azul", "azul", "azuis", "azuis"],
        ["roxo", "roxa", "roxos", "roxas"],
        ["rosa", "rosa", "rosa", "rosa"],
        ["marrom", "marrom", "marrons", "marrons"],
        ["preto", "preta", "pretos", "pretas"],
        ["branco", "branca", "brancos", "brancas"],
        ["cinza", "cinza", "cinza", "cinza"],
        ["turquesa", "turquesa", "turquesa", "turquesa"],
    ],
    small: ["pequeno", "pequena", "pequenos", "pequenas"],
    large: ["grande", "grande", "grandes", "grandes"],
    size_comes_first: false,
    striped: "às riscas",
    dotted: "às bolinhas",
};

const DUTCH_NOUNS: [(char, &str, &str); 16] = [
    ('c', "bal", "ballen"),
    ('n', "vierkant", "vierkanten"),
    ('c', "driehoek", "driehoeken"),
    ('c', "ster", "sterren"),
    ('n', "hart", "harten"),
    ('c', "ring", "ringen"),
    ('n', "kruis", "kruisen"),
    ('c', "zeshoek", "zeshoeken"),
    ('c', "halvemaan", "halvemanen"),
    ('c', "ruit", "ruiten"),
    ('c', "bloem", "bloemen"),
    ('n', "huis", "huizen"),
    ('c', "boom", "bomen"),
    ('c', "vis", "vissen"),
    ('c', "boot", "boten"),
    ('c', "wolk", "wolken"),
];
const DUTCH_COLOURS: [[&str; 2]; 12] = [
    ["rood", "rode"],
    ["oranje", "oranje"],
    ["geel", "gele"],
    ["groen", "groene"],
    ["blauw", "blauwe"],
    ["paars", "paarse"],
    ["roze", "roze"],
    ["bruin", "bruine"],
    ["zwart", "zwarte"],
    ["wit", "witte"],
    ["grijs", "grijze"],
    ["turquoise", "turquoise"],
];

const CHINESE_NOUNS: [(&str, &str); 16] = [
    ("个", "圆球"),
    ("个", "正方形"),
    ("个", "三角形"),
    ("颗", "星星"),
    ("颗", "爱心"),
    ("个", "圆环"),
    ("个", "十字"),
    ("个", "六边形"),
    ("弯", "月牙"),
    ("个", "菱形"),
    ("朵", "花"),
    ("座", "房子"),
    ("棵", "树"),
    ("条", "鱼"),
    ("艘", "船"),
    ("朵", "云"),
];
const CHINESE_COLOURS: [&str; 12] =
    ["红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色", "黑色", "白色", "灰色", "青绿色"];

const JAPANESE_NOUNS: [(&str, &str); 16] = [
    ("つ", "ボール"),
    ("つ", "四角形"),
    ("つ", "三角形"),
    ("つ", "星"),
    ("つ", "ハート"),
    ("つ", "輪"),
    ("つ", "十字"),
    ("つ", "六角形"),
    ("つ", "三日月"),
    ("つ", "ひし形"),
    ("輪", "花"),
    ("軒", "家"),
    ("本", "木"),
    ("匹", "魚"),
    ("隻", "船"),
    ("つ", "雲"),
];
const JAPANESE_COLOURS: [&str; 12] = [
    "赤い",
    "オレンジ色の",
    "黄色い",
    "緑色の",
    "青い",
    "紫色の",
    "ピンク色の",
    "茶色い",
    "黒い",
    "白い",
    "灰色の",
    "青緑色の",
];

const ARABIC_NOUNS: [(char, &str, &str); 16] = [
    ('f', "كرة", "كرات"),
    ('m', "مربع", "مربعات"),
    ('m', "مثلث", "مثلثات"),
    ('f', "نجمة", "نجوم"),
    ('m', "قلب", "قلوب"),
    ('f', "حلقة", "حلقات"),
    ('m', "صليب", "صلبان"),
    ('m', "مسدس", "مسدسات"),
    ('m', "هلال", "أهلة"),
    ('m', "معين", "معينات"),
    ('f', "زهرة", "أزهار"),
    ('m', "بيت", "بيوت"),
    ('f', "شجرة", "أشجار"),
    ('f', "سمكة", "أسماك"),
    ('m', "قارب", "قوارب"),
    ('f', "سحابة", "سحب"),
];
const ARABIC_COLOURS: [[&str; 2]; 12] = [
    ["أحمر", "حمراء"],
    ["برتقالي", "برتقالية"],
    ["أصفر", "صفراء"],
    ["أخضر", "خضراء"],
    ["أزرق", "زرقاء"],
    ["بنفسجي", "بنفسجية"],
    ["وردي", "وردية"],
    ["بني", "بنية"],
    ["أسود", "سوداء"],
    ["أبيض", "بيضاء"],
    ["رمادي", "رمادية"],
    ["فيروزي", "فيروزية"],
];
