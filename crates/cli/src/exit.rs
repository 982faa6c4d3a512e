//! How the process ends. One enum, so that every command means the same by a number.

use std::process::ExitCode;

use forebay_types::Fault;

/// The exit codes of `forebay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Done,
    /// The request failed, or was cancelled: user code, data, a conflict.
    Failed,
    /// Wrong usage or settings.
    Usage,
    /// The platform failed: disk, process start, a defect of ours.
    Platform,
}

impl Exit {
    /// The number the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => Fault::Request.exit_code(),
            Self::Usage => Fault::Usage.exit_code(),
            Self::Platform => Fault::Platform.exit_code(),
        }
    }
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Request => Self::Failed,
            Fault::Usage => Self::Usage,
            Fault::Platform => Self::Platform,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_decide_the_code() {
        assert_eq!(Exit::Done.code(), 0);
        for (fault, code) in [(Fault::Request, 1), (Fault::Usage, 2), (Fault::Platform, 3)] {
            assert_eq!(Exit::from(fault).code(), code);
        }
    }
}
