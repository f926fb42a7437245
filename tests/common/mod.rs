//! What whole-program tests share: an empty folder to run the executable in.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder of its own, gone at the end.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Scratch { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// The executable, in this folder, untouched by the settings of whoever runs the tests.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
        command.current_dir(self.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FIRN_")) {
            command.env_remove(name);
        }
        command.env("XDG_STATE_HOME", self.path().join("state"));
        command
    }

    fn output(&self, variables: &[(&str, &str)], args: &[&str]) -> Output {
        self.command().envs(variables.iter().copied()).args(args).output().expect("the executable runs")
    }

    /// Runs and gives standard output; anything but exit code 0 fails the test.
    pub fn ok(&self, args: &[&str]) -> String {
        self.run_plain(&[], args)
    }

    /// The same, with environment variables.
    pub fn run_plain(&self, variables: &[(&str, &str)], args: &[&str]) -> String {
        let output = self.output(variables, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "firn {args:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8 on standard output")
    }

    /// Runs and gives the exit code and the JSON object that was printed.
    pub fn answer(&self, args: &[&str]) -> (Option<i32>, serde_json::Value) {
        let output = self.output(&[], args);
        (output.status.code(), json(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Runs and expects this exit code, this part in what is said, and nothing on standard output.
    pub fn fails(&self, code: i32, args: &[&str], part: &str) {
        self.fails_with(&[], code, args, part);
    }

    /// The same, with environment variables.
    pub fn fails_with(&self, variables: &[(&str, &str)], code: i32, args: &[&str], part: &str) {
        let output = self.output(variables, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "firn {args:?}\n{stderr}");
        assert!(stderr.contains(part), "firn {args:?}: expected {part:?} in\n{stderr}");
        assert!(output.stdout.is_empty(), "firn {args:?} printed an answer");
    }
}

/// One JSON object.
pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
