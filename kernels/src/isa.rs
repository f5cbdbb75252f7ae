//! Which instruction sets this machine has, and the choice of one.
//!
//! Every path gives the same bits, so the choice is one of speed. A lower path can be forced for tests; one that the
//! machine lacks cannot be had at all, which is what makes the calls behind a [`Kernels`] sound.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::KernelError;
use crate::linear::bf16_fault;
use crate::micro::{self, Table};

/// An instruction set that the kernels are compiled for, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every machine of this architecture has. On x86-64 its fused multiply-add is a library call: right, but slow.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with the bf16 dot product.
    Avx512Bf16,
}

impl Isa {
    /// All of them, the slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The name that flags and `READY.features` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => has_avx2(),
            Self::Avx512 => has_avx512(),
            Self::Avx512Bf16 => has_avx512() && has_bf16(),
        }
    }

    /// The fastest one that this machine has and that gives the right bits: see [`Kernels::bf16_fault`].
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|isa| Kernels::for_isa(*isa).is_ok())
            .unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| KernelError::IsaUnknown {
                name: name.to_owned(),
            })
    }
}

/// A difference between the bf16 instruction and fused multiply-adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bf16Fault {
    /// Round of the check in which it showed.
    pub round: usize,
    /// Bits of the sum that the instruction gave.
    pub actual: u32,
    /// Bits that fused multiply-adds gave.
    pub expected: u32,
}

impl fmt::Display for Bf16Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            round,
            actual,
            expected,
        } = self;
        write!(
            f,
            "a sum of round {round} has the bits {actual:#010x} and not {expected:#010x}"
        )
    }
}

/// The kernels of one instruction set that this machine is known to have.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    table: &'static Table,
}

impl Kernels {
    /// The fastest kernels of this machine.
    pub fn best() -> Self {
        let isa = Isa::best();
        Self {
            isa,
            table: micro::table(isa),
        }
    }

    /// The kernels of one instruction set.
    ///
    /// # Errors
    /// [`KernelError::IsaMissing`] if the machine lacks it, [`KernelError::Bf16Faulty`] if it has it and the start-up
    /// check found that it breaks the row rule.
    pub fn for_isa(isa: Isa) -> Result<Self, KernelError> {
        if !isa.is_available() {
            return Err(KernelError::IsaMissing { isa });
        }
        if let (Isa::Avx512Bf16, Some(fault)) = (isa, Self::bf16_fault()) {
            return Err(KernelError::Bf16Faulty { fault });
        }
        Ok(Self {
            isa,
            table: micro::table(isa),
        })
    }

    /// What is wrong with this machine's bf16 dot product, if it has one and it gives other bits than the other paths:
    /// then it is not chosen, and this is worth a line in the log. The check runs once.
    pub fn bf16_fault() -> Option<Bf16Fault> {
        static FAULT: OnceLock<Option<Bf16Fault>> = OnceLock::new();
        *FAULT.get_or_init(|| {
            let isa = Isa::Avx512Bf16;
            // SAFETY: the machine has the instructions.
            let check = || unsafe { bf16_fault(micro::table(isa)) };
            isa.is_available().then(check).flatten()
        })
    }

    /// Their instruction set.
    pub const fn isa(self) -> Isa {
        self.isa
    }

    /// Their functions. The machine has the instructions: both ways to make a `Kernels` have looked.
    pub(crate) const fn table(self) -> &'static Table {
        self.table
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sets_map_both_ways() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert_eq!(
            "sse9".parse::<Isa>(),
            Err(KernelError::IsaUnknown {
                name: "sse9".to_owned()
            })
        );
    }

    #[test]
    fn kernels_exist_for_exactly_what_the_machine_has() {
        for isa in Isa::ALL {
            match Kernels::for_isa(isa) {
                Ok(kernels) => assert!(kernels.isa() == isa && isa.is_available()),
                Err(error) => {
                    assert!(!isa.is_available());
                    assert_eq!(error, KernelError::IsaMissing { isa });
                }
            }
        }
        assert_eq!(Kernels::best().isa(), Isa::best());
    }
}
