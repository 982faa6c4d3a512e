//! The zygote's end of its line, and the fork of an interpreter.

use std::io;

use forebay_sandbox::zygote::{self, Side};
use pyo3::exceptions::PyConnectionError;
use pyo3::prelude::*;

unsafe extern "C" {
    // Part of the stable ABI; what `os.fork` calls around the fork.
    fn PyOS_BeforeFork();
    fn PyOS_AfterFork_Parent();
    fn PyOS_AfterFork_Child();
}

/// Where a zygote hears from its supervisor.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Door(zygote::Door);

/// What a turn of [`Door::serve`] came to.
enum Turn {
    Parent,
    Child(String),
}

#[pymethods]
impl Door {
    /// Takes standard input as the line, and puts `/dev/null` in its place.
    #[staticmethod]
    fn from_stdin() -> PyResult<Self> {
        Ok(Self(zygote::Door::from_stdin()?))
    }

    /// What the supervisor says next. Raises `ConnectionError` when it has gone.
    fn hear(&self, py: Python<'_>) -> PyResult<String> {
        let message = py.detach(|| self.0.hear())?;
        match String::from_utf8(message) {
            Ok(text) if !text.is_empty() => Ok(text),
            _ => Err(PyConnectionError::new_err("the supervisor is gone")),
        }
    }

    /// Says something to the supervisor.
    fn say(&self, text: &str) -> PyResult<()> {
        Ok(self.0.say(text.as_bytes())?)
    }

    /// Makes children until no more are wanted: gives `None` then. In each child, which has landed in a sandbox of its own and has
    /// standard input, output and error of its own and no other descriptor, gives what the supervisor has to say to it.
    fn serve(&self, py: Python<'_>) -> PyResult<Option<String>> {
        loop {
            let Some(request) = py.detach(|| self.0.wait())? else { return Ok(None) };
            match turn(request, &self.0)? {
                Turn::Parent => {}
                Turn::Child(word) => return Ok(Some(word)),
            }
        }
    }
}

fn turn(request: zygote::Request, door: &zygote::Door) -> io::Result<Turn> {
    // SAFETY: the interpreter's lock is held, and the calls surround a fork as its documentation asks.
    let side = unsafe {
        PyOS_BeforeFork();
        let side = request.fork();
        if matches!(side, Ok(Side::Child)) {
            PyOS_AfterFork_Child();
        } else {
            PyOS_AfterFork_Parent();
        }
        side
    };
    if let Ok(Side::Child) = side {
        // What cannot land must not go on as anything else: neither may it unwind into the zygote's program.
        return Ok(Turn::Child(request.land().unwrap_or_else(|_| zygote::leave())));
    }
    door.answer(&side).map(|()| Turn::Parent)
}

/// Names this process, for those who look at processes.
#[pyfunction]
pub(crate) fn set_name(name: &str) {
    zygote::set_name(name);
}

/// Starts this process's arena, if its library was told to wait: tables are born in shared memory from now on, `limit` bytes at
/// most. Whether there is one.
#[pyfunction]
#[pyo3(signature = (limit=None))]
pub(crate) fn start_arena(limit: Option<usize>) -> bool {
    forebay_shm::arena::of_process().is_some_and(|arena| arena.start(limit.unwrap_or(usize::MAX)))
}
