//! A real server for a test: the executable on free ports, ended with the test.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use firn_client::{Client, v1};

pub struct Server {
    child: Child,
    pub grpc: String,
    pub http: Option<SocketAddr>,
    /// What it said on standard error so far.
    said: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

#[derive(serde::Deserialize)]
struct Addresses {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
}

pub fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FIRN_")) {
        command.env_remove(name);
    }
    // Its own empty folder, so that no settings file is read.
    command.current_dir(data.parent().unwrap());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Server {
    /// A server without a model; it is ready when this returns.
    pub fn start(data: &Path, args: &[&str]) -> Server {
        Server::start_with_model(data, "none", args)
    }

    pub fn start_with_model(data: &Path, model: &str, args: &[&str]) -> Server {
        let port_file = data.with_extension("ports.json");
        let _ = std::fs::remove_file(&port_file);
        let mut command = command(data, args);
        if !args.contains(&"--http-listen") {
            command.args(["--http-listen", "127.0.0.1:0"]);
        }
        command.args(["--model", model, "--port-file"]).arg(&port_file);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        loop {
            match lines.next() {
                Some(line) => said += &(line.unwrap() + "\n"),
                None => panic!("the server ended before it was ready ({}):\n{said}", child.wait().unwrap()),
            }
            if said.contains("is ready") {
                break;
            }
        }
        let addresses: Addresses = serde_json::from_slice(&std::fs::read(&port_file).unwrap()).unwrap();
        let said = Arc::new(Mutex::new(said));
        let reader = thread::spawn({
            let said = said.clone();
            move || lines.map_while(Result::ok).for_each(|line| *said.lock().unwrap() += &(line + "\n"))
        });
        Server { child, grpc: format!("http://{}", addresses.grpc), http: addresses.http, said, reader: Some(reader) }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.grpc).await.unwrap()
    }

    pub async fn channel(&self) -> tonic::transport::Channel {
        tonic::transport::Endpoint::from_shared(self.grpc.clone()).unwrap().connect().await.unwrap()
    }

    /// The status line and body of an HTTP answer.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http.unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: firn\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let said = self.said.lock().unwrap().clone();
        (status, said)
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A collection with one vector "v".
pub fn plain_collection(name: &str, dim: u32) -> v1::CreateCollectionRequest {
    v1::CreateCollectionRequest {
        collection_name: name.to_owned(),
        vectors: [("v".to_owned(), v1::VectorConfig { dim, ..Default::default() })].into(),
        ..Default::default()
    }
}

/// A point with nothing but a vector "v".
pub fn vector_point(id: u64, vector: &[f32]) -> v1::PointInput {
    v1::PointInput {
        id: Some(firn_client::id(id)),
        vectors: [("v".to_owned(), firn_client::pack(vector))].into(),
        ..Default::default()
    }
}
