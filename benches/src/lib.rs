//! Measurements live in `src/bin`; see README.md.
