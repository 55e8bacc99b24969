//! What is written in `deploy/` and `docs/install.md` exists: every verb and flag of a command, every
//! environment variable, every key of the sample files. The built program is asked, by its help and by
//! `--check`.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the help of one verb says.
#[derive(Debug, Default)]
struct Help {
    text: String,
    flags: BTreeSet<String>,
    verbs: BTreeSet<String>,
}

/// The help of every verb, by the words that lead to it.
struct Program(BTreeMap<Vec<String>, Help>);

/// A command as written somewhere.
#[derive(Debug, PartialEq, Eq)]
struct Invocation {
    verb: Vec<String>,
    flags: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn fgpu(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fgpu"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

/// Every file of the deployables, and how to install them.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = vec![root().join("docs/install.md")];
    let mut folders = vec![root().join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 20, "the deployables are not where they are looked for: {files:?}");
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap())).collect()
}

impl Program {
    fn ask() -> Self {
        let mut known = BTreeMap::new();
        let mut open = vec![Vec::new()];
        while let Some(verb) = open.pop() {
            let mut arguments: Vec<&str> = verb.iter().map(String::as_str).collect();
            arguments.push("--help");
            let answer = fgpu(&arguments, &[]);
            assert!(answer.status.success(), "{arguments:?}: {answer:?}");
            let help = Help::read(String::from_utf8(answer.stdout).unwrap());
            open.extend(
                help.verbs.iter().map(|next| [&verb[..], std::slice::from_ref(next)].concat()),
            );
            known.insert(verb, help);
        }
        Self(known)
    }

    fn variables(&self) -> BTreeSet<String> {
        self.0.values().flat_map(|help| variables(&help.text)).collect()
    }

    fn flags(&self) -> BTreeSet<String> {
        self.0.values().flat_map(|help| help.flags.iter().cloned()).collect()
    }

    /// The commands in `text`, and the words after `fgpu` where a command stands that are no verb.
    fn invocations(&self, text: &str) -> (Vec<Invocation>, Vec<String>) {
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        for line in text.replace("\\\n", " ").lines() {
            let line = line.replace("args: [", " $ fgpu ").replace("ExecStart=", " $ ");
            // A quotation begins a command of its own and ends it.
            let line = line.replace('`', " \u{1} ").replace(['"', ',', ']', '(', ')'], " ");
            let words: Vec<&str> = line.split_whitespace().collect();
            for (at, word) in words.iter().enumerate() {
                if *word != "fgpu" && !word.ends_with("/bin/fgpu") {
                    continue;
                }
                let before = at.checked_sub(1).map_or("", |before| words[before]);
                match self.invocation(&words[at + 1..]) {
                    Some(invocation) => found.push(invocation),
                    None if ["$", "sudo", "|", "&&", "\u{1}"].contains(&before) => {
                        unknown.extend(
                            words
                                .get(at + 1)
                                .filter(|word| is_name(word))
                                .map(|word| (*word).to_owned()),
                        );
                    }
                    None => {}
                }
            }
        }
        (found, unknown)
    }

    fn invocation(&self, words: &[&str]) -> Option<Invocation> {
        let mut verb: Vec<String> = Vec::new();
        let mut flags = Vec::new();
        for word in words {
            let word = word.trim_end_matches(['.', ';', ':']);
            let next = [&verb[..], &[word.to_owned()]].concat();
            match word {
                "|" | "&" | "&&" | ">" | "--" | "\u{1}" => break,
                _ if word.starts_with("--") => {
                    flags.push(word.split('=').next().unwrap_or(word).to_owned());
                }
                _ if flags.is_empty() && self.0.contains_key(&next) => verb = next,
                _ => {}
            }
        }
        // The first word must be a verb: `fgpu` is also the name of a release, a user and a folder.
        let first = words.first().map(|word| word.trim_end_matches(['.', ';', ':']));
        (verb.first().map(String::as_str) == first && first.is_some())
            .then_some(Invocation { verb, flags })
    }
}

impl Help {
    fn read(text: String) -> Self {
        let mut help = Self::default();
        let mut section = "";
        for line in text.lines() {
            if line.ends_with(':') && !line.starts_with(' ') {
                section = line;
            }
            let words = line.split_whitespace().map(|word| word.trim_matches(['[', ']', ',', '.']));
            if section == "Commands:" && line.starts_with("  ") && !line.starts_with("   ") {
                help.verbs.extend(words.clone().take(1).map(str::to_owned));
            }
            // Not flags named in passing, in the text of others.
            let head = line.trim_start();
            if section != "Commands:" && head.starts_with('-') && line.starts_with("  ") {
                let own = words.take_while(|word| word.starts_with('-'));
                help.flags.extend(
                    own.map(|flag| flag.split(['=', '[']).next().unwrap_or(flag).to_owned()),
                );
            }
        }
        help.text = text;
        help
    }
}

/// Every `FGPU_…` in a text, but for beginnings of names such as `FGPU_AGENT_`.
fn variables(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("FGPU_") && !word.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
}

#[test]
fn every_command_in_the_deployables_has_real_verbs_and_flags() {
    let program = Program::ask();
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, text) in sources() {
        let (found, unknown) = program.invocations(&text);
        wrong.extend(
            unknown.into_iter().map(|word| format!("{}: no verb `{word}`", path.display())),
        );
        for Invocation { verb, flags } in found {
            let known = &program.0[&verb].flags;
            let strange = flags.iter().filter(|flag| !known.contains(*flag));
            wrong.extend(
                strange.map(|flag| format!("{}: `fgpu {} {flag}`", path.display(), verb.join(" "))),
            );
            seen.insert(verb);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for verb in ["manager", "agent", "up", "cluster"] {
        assert!(seen.contains(&vec![verb.to_owned()]), "`fgpu {verb}` is nowhere: {seen:?}");
    }
}

#[test]
fn every_flag_named_in_the_text_is_real() {
    let known = Program::ask().flags();
    for (path, text) in sources() {
        let prose = path.extension().is_some_and(|kind| kind == "md" || kind == "toml");
        for quoted in text.split("`--").skip(1).filter(|_| prose) {
            let name =
                quoted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next().unwrap();
            assert!(known.contains(&format!("--{name}")), "{}: `--{name}`", path.display());
        }
    }
}

#[test]
fn every_environment_variable_in_the_deployables_is_read_by_the_program() {
    let known = Program::ask().variables();
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        for name in variables(&text) {
            assert!(known.contains(&name) || is_first_token(&name), "{}: {name}", path.display());
            seen.insert(name);
        }
    }
    assert!(seen.contains("FGPU_MANAGER_ADVERTISE"), "nothing was looked at: {seen:?}");
}

/// The first tokens of a cluster have no flag: whether the manager reads such a variable shows when
/// it holds no token.
fn is_first_token(name: &str) -> bool {
    let refused = fgpu(&["manager", "--check"], &[(name, "x")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    // The units of systemd do not try again after this code.
    refused.status.code() == Some(2) && said.contains(name)
}

#[test]
fn the_sample_files_are_accepted_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, format!("fgpu_abcdef_{}\n", "a".repeat(43))).unwrap();
    for daemon in ["manager", "agent"] {
        let file = root().join(format!("deploy/systemd/{daemon}.toml"));
        let given = [("FGPU_AGENT_TOKEN_FILE", token.to_str().unwrap())];
        let checked = fgpu(&[daemon, "--config", file.to_str().unwrap(), "--check"], &given);
        assert!(checked.status.success(), "{}: {checked:?}", file.display());
    }
}

#[test]
fn the_sample_files_name_every_setting_and_none_that_is_not_there() {
    // Right by themselves, but in need of something beside them.
    let alone = [
        "goes together",
        "cannot be read",
        "needs `",
        "needs TLS",
        "leaves nothing",
        "must be longer",
        "not a token",
    ];
    let program = Program::ask();
    let folder = tempfile::tempdir().unwrap();
    for daemon in ["manager", "agent"] {
        let text =
            std::fs::read_to_string(root().join(format!("deploy/systemd/{daemon}.toml"))).unwrap();
        let prefix = format!("FGPU_{}", daemon.to_uppercase());
        let mut missing = variables(&program.0[&vec![daemon.to_owned()]].text);
        missing.retain(|name| name.starts_with(&prefix));
        for (section, line) in settings(&text) {
            let file = folder.path().join("one.toml");
            std::fs::write(&file, format!("{section}\n{line}\n")).unwrap();
            let checked = fgpu(&[daemon, "--config", file.to_str().unwrap(), "--check"], &[]);
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            let fine = checked.status.success() || alone.iter().any(|reason| said.contains(reason));
            assert!(
                fine && !said.contains("unknown field"),
                "{daemon}.toml: {section} {line}: {said}"
            );
            missing.remove(&variable(&prefix, &section, &line));
        }
        assert!(missing.is_empty(), "{daemon}.toml does not name {missing:?}");
    }
}

/// The settings of a sample file with the sections they are in, those that are commented out as well:
/// these have no blank after the `#`.
fn settings(text: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            section = line.to_owned();
        } else if is_name(line) {
            found.push((section.clone(), line.to_owned()));
        }
    }
    found
}

/// The environment variable of a setting. A label is part of the setting of all labels.
fn variable(prefix: &str, section: &str, line: &str) -> String {
    let key = line.split([' ', '=']).next().unwrap();
    let path = match section.trim_matches(['[', ']']) {
        "" => key.to_owned(),
        "labels" => "labels".to_owned(),
        section => format!("{section}_{key}"),
    };
    format!("{prefix}_{}", path.to_uppercase())
}

#[test]
fn commands_are_found_in_prose_in_blocks_and_in_lists() {
    let verbs = [vec![], vec!["agent"], vec!["token"], vec!["token", "create"]];
    let path = |verb: &[&str]| verb.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let program = Program(verbs.iter().map(|verb| (path(verb), Help::default())).collect());
    let one = |text: &str| {
        let (found, unknown) = program.invocations(text);
        (
            found
                .into_iter()
                .map(|found| format!("{} {}", found.verb.join(" "), found.flags.join(" ")))
                .collect::<Vec<_>>(),
            unknown,
        )
    };

    assert_eq!(one("use `fgpu token create --role agent` and `--x`.").0, ["token create --role"]);
    assert_eq!(one("$ cat f | fgpu agent \\\n  --a=1 --b | sort --c").0, ["agent --a --b"]);
    assert_eq!(one("          args: [\"agent\", \"--config\", \"/f\"]").0, ["agent --config"]);
    assert_eq!(one("ExecStart=/usr/local/bin/fgpu agent --x").0, ["agent --x"]);
    assert_eq!(one("$ helm upgrade fgpu deploy/helm/fgpu --namespace fgpu"), (vec![], vec![]));
    assert_eq!(one("$ sudo fgpu agnet --x").1, ["agnet"]);
}
