//! The lists a replay is made of: nodes and pods, from files of openb form or from the catalogue.

use super::GenerateError;
use crate::replay::{GPU_MILLI, NodeLine, PodLine};
use std::fs;
use std::path::Path;

/// What a cluster is and what is usually asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Lists {
    pub(crate) nodes: Vec<NodeLine>,
    pub(crate) pods: Vec<PodLine>,
}

impl Lists {
    /// GPU there is, thousandths.
    pub(crate) fn capacity(&self) -> u64 {
        capacity(&self.nodes)
    }
}

pub(crate) fn capacity(nodes: &[NodeLine]) -> u64 {
    nodes.iter().map(|node| u64::from(node.num_gpu) * GPU_MILLI).sum()
}

/// Whether an empty `node` holds `pod`.
pub(crate) fn holds(node: &NodeLine, pod: &PodLine) -> bool {
    let model = node.gpu_model.as_ref();
    let allowed = pod.gpu_spec.is_empty() || model.is_some_and(|m| pod.gpu_spec.contains(m));
    pod.cpu_milli <= node.cpu_milli
        && pod.memory_mib <= node.memory_mib
        && pod.num_gpu <= node.num_gpu
        && (pod.num_gpu == 0 || allowed)
}

/// Reads nodes: columns `sn`, `cpu_milli`, `memory_mib`, `gpu`, `model`.
pub(crate) fn read_nodes(path: &Path) -> Result<Vec<NodeLine>, GenerateError> {
    let table = Table::read(path)?;
    let [name, cpu, memory, gpus, model] =
        table.columns(["sn", "cpu_milli", "memory_mib", "gpu", "model"])?;
    let rows = table.rows.iter().map(|row| {
        Ok(NodeLine {
            name: row.text(name).to_owned(),
            cpu_milli: row.number(cpu)?,
            memory_mib: row.number(memory)?,
            num_gpu: row.count(gpus)?,
            gpu_model: Some(row.text(model)).filter(|text| !text.is_empty()).map(str::to_owned),
        })
    });
    rows.collect()
}

/// Reads pods: columns `name`, `cpu_milli`, `memory_mib`, `num_gpu`, `gpu_milli`, `gpu_spec`.
pub(crate) fn read_pods(path: &Path) -> Result<Vec<PodLine>, GenerateError> {
    let table = Table::read(path)?;
    let [name, cpu, memory, gpus, milli, spec] =
        table.columns(["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"])?;
    let rows = table.rows.iter().map(|row| {
        let num_gpu = row.count(gpus)?;
        let gpu_milli = if num_gpu == 0 { 0 } else { row.number(milli)?.min(GPU_MILLI) };
        if num_gpu > 0 && gpu_milli == 0 {
            let rule = "a pod with GPUs wants 1 to 1000 milli of each";
            return Err(row.refused(milli, rule));
        }
        let models = row.text(spec).split('|').filter(|model| !model.is_empty() && num_gpu > 0);
        let mut gpu_spec: Vec<String> = models.map(str::to_owned).collect();
        gpu_spec.sort_unstable();
        gpu_spec.dedup();
        Ok(PodLine {
            name: row.text(name).to_owned(),
            cpu_milli: row.number(cpu)?,
            memory_mib: row.number(memory)?,
            num_gpu,
            gpu_milli,
            gpu_spec,
        })
    });
    rows.collect()
}

/// Rows of text under named columns, separated by commas; nothing is quoted.
struct Table {
    path: String,
    head: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    path: String,
    line: usize,
    cells: Vec<String>,
}

impl Table {
    fn read(path: &Path) -> Result<Self, GenerateError> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|source| GenerateError::Open { path: path.to_path_buf(), source })?;
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let cells = |line: &str| line.split(',').map(|cell| cell.trim().to_owned()).collect();
        let head: Vec<String> = lines.next().map(|(_, line)| cells(line)).unwrap_or_default();
        let rows = lines.map(|(at, line)| {
            let row = Row { path: shown.clone(), line: at + 1, cells: cells(line) };
            if row.cells.len() != head.len() || line.contains('"') {
                let rule = format!("{} cells without quotes are wanted", head.len());
                return Err(row.wrong(line, rule));
            }
            Ok(row)
        });
        let rows = rows.collect::<Result<_, _>>()?;
        Ok(Self { path: shown, head, rows })
    }

    fn columns<const N: usize>(&self, names: [&str; N]) -> Result<[usize; N], GenerateError> {
        let mut places = [0; N];
        for (place, name) in places.iter_mut().zip(names) {
            let found = self.head.iter().position(|head| head == name);
            let missing =
                || GenerateError::NoColumn { list: self.path.clone(), column: name.to_owned() };
            *place = found.ok_or_else(missing)?;
        }
        Ok(places)
    }
}

impl Row {
    /// A cell; `nan` is how some programs write an empty one.
    fn text(&self, column: usize) -> &str {
        let cell = self.cells.get(column).map_or("", String::as_str);
        if cell == "nan" { "" } else { cell }
    }

    /// A whole number; an empty cell is 0, and `4.0` is 4.
    fn number(&self, column: usize) -> Result<u64, GenerateError> {
        let text = self.text(column);
        let whole = text.strip_suffix(".0").unwrap_or(text);
        if whole.is_empty() {
            return Ok(0);
        }
        whole.parse().map_err(|_| self.refused(column, "a whole number is wanted"))
    }

    fn count(&self, column: usize) -> Result<u32, GenerateError> {
        u32::try_from(self.number(column)?).map_err(|_| self.refused(column, "it is too large"))
    }

    fn refused(&self, column: usize, rule: &str) -> GenerateError {
        self.wrong(self.text(column), rule.to_owned())
    }

    fn wrong(&self, text: &str, rule: String) -> GenerateError {
        let (list, line, text) = (self.path.clone(), self.line, text.to_owned());
        GenerateError::Cell { list, line, text, rule }
    }
}
