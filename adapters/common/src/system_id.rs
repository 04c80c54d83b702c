//! The name of this machine among those that share a runner token.

use std::fs;
use std::io;

use getrandom::Error;
use gitlab_runner_api::SystemId;
use hmac_sha256::HMAC;

/// Where Linux keeps an id of the machine.
const MACHINE_ID_FILES: [&str; 2] = ["/var/lib/dbus/machine-id", "/etc/machine-id"];

/// In the official runner's form: `s_` and twelve hex digits that stay the same on a machine that has an id, else `r_` and
/// twelve random ones. Keep it: a new one is a new runner manager in GitLab's list.
///
/// # Errors
///
/// If the operating system gives no random numbers.
pub fn make() -> io::Result<SystemId> {
    let machine = MACHINE_ID_FILES.iter().find_map(|file| fs::read_to_string(file).ok());
    let text = match machine.as_deref().map(str::trim).filter(|id| !id.is_empty()).map(derived) {
        Some(id) => id,
        None => random().map_err(io::Error::from)?,
    };
    SystemId::new(text).map_err(io::Error::other)
}

fn derived(machine: &str) -> String {
    let digest = HMAC::mac(b"gitlab-runner", machine.as_bytes());
    format!("s_{}", digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn random() -> Result<String, Error> {
    let letter = |number| char::from_digit(number % 36, 36).unwrap_or('0');
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes)?;
    Ok(format!("r_{}", bytes.into_iter().map(|byte| letter(u32::from(byte))).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_those_of_the_official_runner() {
        let shape = |id: &str| id.len() == 14 && id[2..].bytes().all(|byte| byte.is_ascii_alphanumeric());
        let stable = derived("0123456789abcdef0123456789abcdef");
        assert_eq!(stable, "s_ee3af03959fe");
        assert!(stable.starts_with("s_") && shape(&stable), "{stable}");
        assert_ne!(stable, derived("0123456789abcdef0123456789abcdee"));
        let one = random().unwrap();
        assert!(one.starts_with("r_") && shape(&one), "{one}");
        assert_ne!(one, random().unwrap());
    }
}
