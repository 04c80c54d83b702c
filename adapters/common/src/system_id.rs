//! The system ID: the name of this host among the hosts that share a runner token.

use std::fs;
use std::io;

use getrandom::Error;
use gitlab_runner_api::SystemId;
use hmac_sha256::HMAC;

/// The files in which Linux stores the machine ID.
const MACHINE_ID_FILES: [&str; 2] = ["/var/lib/dbus/machine-id", "/etc/machine-id"];

/// Makes the system ID of this host, in the form of the official runner.
///
/// On a host with a machine ID it is `s_` and twelve hexadecimal digits, which are always the same. Otherwise it is `r_` and twelve random
/// letters or digits. Store it, because GitLab lists each new system ID as a new runner manager.
///
/// # Errors
///
/// The error of the operating system if it gives no random numbers.
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
