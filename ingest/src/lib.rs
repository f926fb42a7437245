//! Files in, points written: `source` -> `decode` -> `embed` -> `sink`, with a journal and a report.
