//! Values of flags that are not amounts of the domain: durations, mounts, pairs, ports.

use std::time::Duration;

use fgpu_domain::slice::{MigProfile, NoMigProfile};
use fgpu_domain::units::{ComputeMilli, CpuMilli, Fgpu, MemoryBytes};

use fgpu_wire::v1::{Dependency, DependencyCondition};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A compute share, or none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComputeArg {
    /// This share of each device.
    Share(ComputeMilli),
    /// What others leave.
    Shared,
}

/// A limit to set, or to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    /// At most this.
    At(T),
    /// Not limited.
    Unlimited,
}

/// When something shall happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// At this time, Unix milliseconds.
    At(u64),
    /// After this long.
    In(Duration),
}

/// A host folder in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeArg {
    /// Path on the node.
    pub(crate) source: String,
    /// Path in the container.
    pub(crate) target: String,
    /// Whether writing is refused.
    pub(crate) read_only: bool,
}

/// `1h30m`, `10s`, `500ms`: whole numbers with units, largest first or not.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write a duration such as `30s`, `1h30m` or `2d`";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("an empty text is no duration: {HINT}"));
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 =
            rest[..digits].parse().map_err(|_| format!("`{text}` is no duration: {HINT}"))?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(format!("`{text}` has no known unit: {HINT}")),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(unit);
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long"))?;
    }
    Ok(Duration::from_millis(total))
}

/// A duration longer than nothing.
pub(crate) fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => {
            Err(format!("`{text}` is no time at all; leave the flag out for no limit"))
        }
        duration => Ok(duration),
    }
}

/// Milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-03-01T08:00:00Z`, with any offset, or `+2h` from now.
pub(crate) fn when(text: &str) -> Result<When, String> {
    const HINT: &str = "write a time such as `2026-03-01T08:00:00+01:00`, or `+2h` from now";
    if let Some(after) = text.strip_prefix('+') {
        return some_duration(after).map(When::In);
    }
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("`{text}` is no time ({error}): {HINT}"))?;
    let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000);
    ms.map(When::At).map_err(|_| format!("`{text}` lies before 1970: {HINT}"))
}

impl<T> Limit<T> {
    /// The same limit in other terms.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Limit<U> {
        match self {
            Self::At(amount) => Limit::At(change(amount)),
            Self::Unlimited => Limit::Unlimited,
        }
    }
}

impl When {
    /// In Unix milliseconds.
    pub(crate) fn since(self, now_ms: u64) -> u64 {
        match self {
            Self::At(at) => at,
            Self::In(after) => now_ms.saturating_add(millis(after)),
        }
    }
}

/// `SESSION`, `SESSION:ok` or `SESSION:any`.
pub(crate) fn after(text: &str) -> Result<Dependency, String> {
    let (session, condition) = match text.rsplit_once(':') {
        None => (text, DependencyCondition::Ok),
        Some((session, "ok")) => (session, DependencyCondition::Ok),
        Some((session, "any")) => (session, DependencyCondition::Any),
        Some((_, other)) => {
            return Err(format!("`{other}` is no condition: write `SESSION:ok` or `SESSION:any`"));
        }
    };
    match session {
        "" => Err(format!("`{text}` names no session: write `SESSION:ok` or `SESSION:any`")),
        session => Ok(Dependency { session: session.to_owned(), condition: condition.into() }),
    }
}

/// An amount, or `none`.
pub(crate) fn limit<T: std::str::FromStr>(text: &str) -> Result<Limit<T>, String>
where
    T::Err: std::fmt::Display,
{
    if text == "none" {
        return Ok(Limit::Unlimited);
    }
    text.parse().map(Limit::At).map_err(|error| format!("{error}, or `none`"))
}

/// An fGPU amount above zero. Whether the cluster's quantum allows it, the manager says.
pub(crate) fn fgpu(text: &str) -> Result<Fgpu, String> {
    let amount: Fgpu = text.parse().map_err(|error| format!("{error}"))?;
    nonzero(amount, amount.is_zero(), text, "leave the flag out for a session without GPU")
}

/// A memory size above zero.
pub(crate) fn memory(text: &str) -> Result<MemoryBytes, String> {
    let amount: MemoryBytes = text.parse().map_err(|error| format!("{error}"))?;
    nonzero(amount, amount.is_zero(), text, "leave the flag out for the default")
}

/// An amount of CPU above zero.
pub(crate) fn cpu(text: &str) -> Result<CpuMilli, String> {
    let amount: CpuMilli = text.parse().map_err(|error| format!("{error}"))?;
    nonzero(amount, amount.is_zero(), text, "leave the flag out for the default")
}

/// `30%`, `0.3` or `shared`.
pub(crate) fn compute(text: &str) -> Result<ComputeArg, String> {
    if text == "shared" {
        return Ok(ComputeArg::Shared);
    }
    let share: ComputeMilli = text.parse().map_err(|error| format!("{error}, or `shared`"))?;
    nonzero(share, share.is_zero(), text, "write `shared` for no share of its own")
        .map(ComputeArg::Share)
}

fn nonzero<T>(amount: T, zero: bool, text: &str, hint: &str) -> Result<T, String> {
    if zero { Err(format!("`{text}` is nothing: {hint}")) } else { Ok(amount) }
}

/// A count from 1.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("0 is nothing: write a whole number from 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("`{text}` is no whole number from 1")),
    }
}

/// MIG instances of one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MigArg {
    pub(crate) profile: MigProfile,
    pub(crate) count: u32,
}

/// `1g.10gb`, or `1g.10gb:2`.
pub(crate) fn mig(text: &str) -> Result<MigArg, String> {
    let (profile, number) = match text.split_once(':') {
        Some((profile, number)) => (profile, count(number)?),
        None => (text, 1),
    };
    let profile = profile.parse().map_err(|error: NoMigProfile| error.to_string())?;
    Ok(MigArg { profile, count: number })
}

/// A TCP port from 1.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{text}` is no port: write a number from 1 to 65535")),
    }
}

/// `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no pair: write `KEY=VALUE`")),
    }
}

/// `KEY=VALUE`, or `KEY` alone for the value it has here.
pub(crate) fn env(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return pair(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(_) => Err(format!("`{text}` is not set here: write `{text}=VALUE`")),
    }
}

/// `SOURCE:TARGET[:ro|rw]`, both absolute.
pub(crate) fn volume(text: &str) -> Result<VolumeArg, String> {
    const HINT: &str = "write `/path/on/node:/path/in/container`, with `:ro` for reading only";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(format!("`{text}` is no mount: {HINT}")),
    };
    match [source, target].iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(format!("`{path}` is no absolute path: {HINT}")),
        None => Ok(VolumeArg { source: source.to_owned(), target: target.to_owned(), read_only }),
    }
}

/// `[LOCAL:]REMOTE`; a local port of 0 is chosen by the system.
pub(crate) fn forward(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let local = match local {
        "" | "0" => 0,
        local => port(local)?,
    };
    Ok((local, port(remote)?))
}

/// The lines of an environment file: `KEY=VALUE` or `KEY`; blank lines and `#` are passed over.
pub(crate) fn env_file(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_start()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| env(line).map_err(|error| format!("line {at}: {error}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_and_add_up() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "10", "-5s", "1y", "1.5h", "h", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(some_duration("0s").is_err());
    }

    #[test]
    fn a_time_is_written_out_or_counted_from_now() {
        assert_eq!(when("1970-01-01T00:00:01Z"), Ok(When::At(1000)));
        assert_eq!(when("1970-01-01T01:00:01.5+01:00"), Ok(When::At(1500)));
        assert_eq!(when("+1h30m").unwrap().since(1000), 5_401_000);
        assert_eq!(when("1970-01-01T00:00:01Z").unwrap().since(5000), 1000);
        for bad in
            ["", "tomorrow", "08:00", "+", "+0s", "2026-13-01T00:00:00Z", "1960-01-01T00:00:00Z"]
        {
            assert!(when(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_followed_has_a_condition_or_is_to_complete() {
        let read = |text: &str| after(text).map(|after| (after.session.clone(), after.condition()));
        assert_eq!(read("train"), Ok(("train".to_owned(), DependencyCondition::Ok)));
        assert_eq!(read("train/3:ok"), Ok(("train/3".to_owned(), DependencyCondition::Ok)));
        assert_eq!(read("train:any"), Ok(("train".to_owned(), DependencyCondition::Any)));
        for bad in ["", ":any", "train:failed", "train:"] {
            assert!(after(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_may_be_nothing_at_all_or_none() {
        assert_eq!(limit::<Fgpu>("2.5"), Ok(Limit::At(Fgpu(2500))));
        assert_eq!(limit::<u64>("0"), Ok(Limit::At(0)));
        assert_eq!(limit::<MemoryBytes>("none"), Ok(Limit::Unlimited));
        assert!(limit::<u64>("many").unwrap_err().contains("`none`"));
    }

    #[test]
    fn nothing_is_not_an_amount() {
        assert!(fgpu("0").is_err());
        assert!(memory("0GiB").is_err());
        assert!(cpu("0").is_err());
        assert!(compute("0%").is_err());
        assert!(count("0").is_err());
        assert!(port("0").is_err());
    }

    #[test]
    fn a_share_may_be_shared() {
        assert_eq!(compute("shared"), Ok(ComputeArg::Shared));
        assert_eq!(compute("30%"), Ok(ComputeArg::Share(ComputeMilli(300))));
        assert!(compute("half").is_err());
    }

    #[test]
    fn an_amount_between_quanta_is_for_the_manager_to_refuse() {
        assert_eq!(fgpu("7.93"), Ok(Fgpu(7930)));
    }

    #[test]
    fn mounts_are_absolute_on_both_sides() {
        let mount = volume("/data:/mnt:ro").unwrap();
        assert!(mount.read_only && mount.source == "/data" && mount.target == "/mnt");
        assert!(!volume("/data:/mnt").unwrap().read_only);
        for bad in ["/data", "data:/mnt", "/data:mnt", "/a:/b:rx", "/a:/b:ro:z"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_forward_names_both_ports_or_one() {
        assert_eq!(forward("8080:80"), Ok((8080, 80)));
        assert_eq!(forward("80"), Ok((80, 80)));
        assert_eq!(forward(":80"), Ok((0, 80)));
        for bad in ["80:", "a:b", "80:0", "70000"] {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_environment_file_says_which_line_is_wrong() {
        let good = env_file("# comment\n\nA=1\n  B=x=y\n").unwrap();
        assert_eq!(good, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
        let bad = env_file("A=1\n=2\n").unwrap_err();
        assert!(bad.contains("line 2"), "{bad}");
        assert!(env("FGPU_SURELY_NOT_SET").is_err());
    }
}
