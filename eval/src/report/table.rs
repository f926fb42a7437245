//! A table and the other blocks a report is made of, as plain words: how they look is up to who prints them.

/// A part of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A section; 2 is the highest level below the title.
    Heading(usize, String),
    Text(String),
    List(Vec<String>),
    /// Terms and what they are.
    Facts(Vec<(&'static str, String)>),
    Table(Table),
}

/// Rows below a head; every row is as long as it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// How many columns stand to the left: the rest are numbers and stand to the right.
    pub n_words: usize,
    /// Whether the last column is words too.
    pub ends_in_words: bool,
}

impl Table {
    /// Of one column of words, then numbers.
    pub fn new<H: Into<String>>(head: impl IntoIterator<Item = H>) -> Table {
        Table { head: head.into_iter().map(Into::into).collect(), n_words: 1, ..Table::default() }
    }

    pub fn is_words(&self, column: usize) -> bool {
        column < self.n_words || (self.ends_in_words && column + 1 == self.head.len())
    }

    /// Lines of aligned columns, the head first, two blanks between.
    pub fn aligned(&self) -> Vec<String> {
        let widths = self.widths();
        let line = |row: &Vec<String>| {
            let cells = widths.iter().enumerate().map(|(column, &width)| {
                let cell = row.get(column).map_or("", String::as_str);
                if self.is_words(column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
        };
        let rule = widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<String>>().join("  ");
        let mut lines = vec![line(&self.head), rule];
        lines.extend(self.rows.iter().map(line));
        lines
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| cell.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}
