//! Pickles as PyTorch writes them, read as data: where one asks for a function to be called, the answer holds the function's
//! name and its arguments, and nothing is ever called.
//!
//! Objects stand in one list and name each other by their places there, so that no file, however it is nested or refers to
//! itself, takes more memory or stack than its length.

use std::collections::HashMap;

/// Where an object stands among those of its pickle.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) enum Object {
    Whole(i64),
    Text(String),
    /// Module and name.
    Class(String),
    /// A tuple or a list.
    Row(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Call {
        function: Id,
        arguments: Id,
    },
    /// Kept outside of the pickle, by this name.
    Outside(Id),
    /// Nothing that a tensor is made of.
    Other,
}

pub(super) struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

impl Pickle {
    pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
        let mut machine = Machine { rest: bytes, objects: Vec::new(), stack: Vec::new(), kept: HashMap::new() };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok(Pickle { objects: machine.objects, root })
    }

    pub(super) fn root_id(&self) -> Id {
        self.root
    }

    pub(super) fn root(&self) -> &Object {
        self.at(self.root)
    }

    pub(super) fn at(&self, id: Id) -> &Object {
        &self.objects[id]
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Object::Text(text) = self.at(id) { Some(text) } else { None }
    }

    pub(super) fn count(&self, id: Id) -> Option<usize> {
        if let Object::Whole(n) = self.at(id) { usize::try_from(*n).ok() } else { None }
    }

    pub(super) fn row(&self, id: Id) -> Option<&[Id]> {
        if let Object::Row(row) = self.at(id) { Some(row) } else { None }
    }

    pub(super) fn class(&self, id: Id) -> Option<&str> {
        if let Object::Class(name) = self.at(id) { Some(name) } else { None }
    }
}

#[derive(Clone, Copy)]
enum Slot {
    Object(Id),
    Mark,
}

struct Machine<'a> {
    rest: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Slot>,
    kept: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Obeys one instruction; false after the last.
    fn step(&mut self) -> Result<bool, String> {
        let instruction = self.take(1)?[0];
        match instruction {
            b'.' => return Ok(false),
            0x80 => _ = self.take(1)?, // version
            0x95 => _ = self.take(8)?, // length of a frame
            b'(' => self.stack.push(Slot::Mark),
            b'0' => _ = self.stack.pop(),
            b'1' => _ = self.pop_to_mark()?,
            b'K' | b'M' | b'J' | 0x8a | b'X' | 0x8c | b'G' | b'N' | 0x88 | 0x89 | b'C' | b'B' => {
                let object = self.literal(instruction)?;
                self.push(object);
            }
            b'c' | 0x93 => self.class(instruction)?,
            b')' | b']' | b't' | b'l' | 0x85..=0x87 => self.row(instruction)?,
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let pairs = self.pop_pairs()?;
                self.push(Object::Dict(pairs));
            }
            b'a' | b'e' | b's' | b'u' => self.fill(instruction)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.keep(instruction)?,
            b'R' | 0x81 => self.call()?,
            // Attributes of an object, not what it holds.
            b'b' => _ = self.pop()?,
            b'Q' => {
                let name = self.pop()?;
                self.push(Object::Outside(name));
            }
            other => return Err(format!("a pickle with instruction {other:#04x}, which PyTorch does not write")),
        }
        Ok(true)
    }

    fn literal(&mut self, instruction: u8) -> Result<Object, String> {
        Ok(match instruction {
            b'K' => Object::Whole(self.number(1)? as i64),
            b'M' => Object::Whole(self.number(2)? as i64),
            b'J' => Object::Whole(i64::from(self.number(4)? as u32 as i32)),
            0x8a => match self.number(1)? as usize {
                n @ 0..=8 => Object::Whole(self.signed(n)?),
                n => {
                    self.take(n)?;
                    Object::Other
                }
            },
            b'X' | 0x8c => {
                let n = self.number(if instruction == b'X' { 4 } else { 1 })?;
                let text = std::str::from_utf8(self.take(n as usize)?);
                Object::Text(text.map_err(|_| "a pickle with a text that is not UTF-8")?.to_owned())
            }
            b'B' | b'C' => {
                let n = self.number(if instruction == b'B' { 4 } else { 1 })?;
                self.take(n as usize)?;
                Object::Other
            }
            b'G' => {
                self.take(8)?;
                Object::Other
            }
            _ => Object::Other,
        })
    }

    fn class(&mut self, instruction: u8) -> Result<(), String> {
        let (module, name) = if instruction == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.objects[module], &self.objects[name]) {
                (Object::Text(module), Object::Text(name)) => (module.clone(), name.clone()),
                _ => return Err("a pickle with a class that has no name".to_owned()),
            }
        };
        self.push(Object::Class(format!("{module}.{name}")));
        Ok(())
    }

    fn row(&mut self, instruction: u8) -> Result<(), String> {
        let row = match instruction {
            b')' | b']' => Vec::new(),
            b't' | b'l' => self.pop_to_mark()?,
            _ => {
                let n = usize::from(instruction - 0x84);
                let mut row = (0..n).map(|_| self.pop()).collect::<Result<Vec<Id>, String>>()?;
                row.reverse();
                row
            }
        };
        self.push(Object::Row(row));
        Ok(())
    }

    /// Puts what stands on top of the stack into the list or dict below it.
    fn fill(&mut self, instruction: u8) -> Result<(), String> {
        let (mut items, mut pairs) = (Vec::new(), Vec::new());
        match instruction {
            b'a' => items.push(self.pop()?),
            b'e' => items = self.pop_to_mark()?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                pairs.push((key, value));
            }
            _ => pairs = self.pop_pairs()?,
        }
        let Some(Slot::Object(target)) = self.stack.last() else {
            return Err(TOO_FEW.to_owned());
        };
        match &mut self.objects[*target] {
            Object::Row(row) => row.extend(items),
            Object::Dict(dict) => dict.extend(pairs),
            // An object that fills itself by code of its own, which is not run.
            _ => {}
        }
        Ok(())
    }

    fn keep(&mut self, instruction: u8) -> Result<(), String> {
        let key = match instruction {
            b'q' | b'h' => self.number(1)? as u32,
            b'r' | b'j' => self.number(4)? as u32,
            _ => self.kept.len() as u32,
        };
        if matches!(instruction, b'h' | b'j') {
            let id = *self.kept.get(&key).ok_or("a pickle that refers to what it does not hold")?;
            self.stack.push(Slot::Object(id));
            return Ok(());
        }
        let Some(Slot::Object(id)) = self.stack.last() else {
            return Err(TOO_FEW.to_owned());
        };
        self.kept.insert(key, *id);
        Ok(())
    }

    /// An ordered dict is a dict; all else stays a call that nobody makes.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let is_dict = matches!(&self.objects[function], Object::Class(name)
            if name == "collections.OrderedDict" || name == "collections.defaultdict");
        self.push(if is_dict { Object::Dict(Vec::new()) } else { Object::Call { function, arguments } });
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.stack.push(Slot::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Id, String> {
        match self.stack.pop() {
            Some(Slot::Object(id)) => Ok(id),
            Some(Slot::Mark) | None => Err(TOO_FEW.to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.stack.iter().rposition(|slot| matches!(slot, Slot::Mark)).ok_or(TOO_FEW)?;
        let ids = self.stack.drain(mark..).filter_map(|slot| match slot {
            Slot::Object(id) => Some(id),
            Slot::Mark => None,
        });
        Ok(ids.collect())
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Id, Id)>, String> {
        let ids = self.pop_to_mark()?;
        Ok(ids.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or("a pickle that ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    /// Without its end.
    fn line(&mut self) -> Result<String, String> {
        let n = self.rest.iter().position(|&byte| byte == b'\n').ok_or("a pickle that ends too early")?;
        let line = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    /// Little-endian, of at most 8 bytes.
    fn number(&mut self, n_bytes: usize) -> Result<u64, String> {
        let bytes = self.take(n_bytes)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn signed(&mut self, n_bytes: usize) -> Result<i64, String> {
        let unused_bits = 64 - 8 * n_bytes as u32;
        let number = self.number(n_bytes)?.checked_shl(unused_bits).unwrap_or(0);
        Ok((number as i64).checked_shr(unused_bits).unwrap_or(0))
    }
}

const TOO_FEW: &str = "a pickle that takes what it did not put";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        let check = |bytes: &[u8], expected: i64| {
            let pickle = Pickle::read(bytes).unwrap();
            assert!(matches!(pickle.root(), Object::Whole(n) if *n == expected), "{bytes:?}: {:?}", pickle.root());
        };
        check(b"K\xff.", 255);
        check(b"M\x01\x02.", 513);
        check(b"J\xfe\xff\xff\xff.", -2);
        check(b"\x8a\x00.", 0);
        check(b"\x8a\x01\x80.", -128);
        check(b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32);
        check(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff.", -1);
    }

    /// What `os.system("true")` looks like in a pickle.
    #[test]
    fn a_call_is_only_read() {
        let pickle = Pickle::read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
        let Object::Call { function, arguments } = pickle.root() else { panic!("{:?}", pickle.root()) };
        assert_eq!(pickle.class(*function), Some("os.system"));
        assert_eq!(pickle.text(pickle.row(*arguments).unwrap()[0]), Some("true"));
    }

    #[test]
    fn neither_depth_nor_doubling_nor_a_circle_takes_more_than_the_file() {
        let deep: Vec<u8> = [b"N".to_vec(), b"\x85".repeat(1 << 20), b".".to_vec()].concat();
        assert!(Pickle::read(&deep).is_ok());
        // Each row holds the one before it twice.
        let doubled: Vec<u8> = [b"Nq\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(64), b".".to_vec()].concat();
        assert!(Pickle::read(&doubled).is_ok());
        assert!(Pickle::read(b"]q\x00h\x00a.").is_ok());
    }

    #[test]
    fn what_is_no_pickle_is_named() {
        for (bytes, expected) in [
            (&b""[..], "ends too early"),
            (b"K", "ends too early"),
            (b"X\xff\xff\xff\xffab.", "ends too early"),
            (b"cos", "ends too early"),
            (b".", "takes what it did not put"),
            (b"(.", "takes what it did not put"),
            (b"t.", "takes what it did not put"),
            (b"\x87.", "takes what it did not put"),
            (b"Na.", "takes what it did not put"),
            (b"q\x00.", "takes what it did not put"),
            (b"h\x07.", "refers to what it does not hold"),
            (b"\xee.", "instruction 0xee, which PyTorch does not write"),
            (b"X\x01\x00\x00\x00\xff.", "not UTF-8"),
        ] {
            let error = Pickle::read(bytes).err().unwrap_or_else(|| panic!("{bytes:?}"));
            assert!(error.contains(expected), "{bytes:?}: {error}");
        }
    }
}
