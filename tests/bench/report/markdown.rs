//! The report for people: the budgets first, then every figure.

use std::fmt::Write as _;

use super::{Figure, Limit, Of, Report, Spread, Verdict};

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# Taskpass bench\n\n");
        let m = &self.machine;
        let r = &self.run;
        for (what, value) in [
            (
                "machine",
                format!("{}, {} cores, {:.1} GiB", m.cpu, m.cores, m.memory_gib),
            ),
            (
                "system",
                format!("Linux {}, scratch on {}", m.kernel, m.scratch),
            ),
            (
                "versions",
                format!("Taskpass {}, {}, {}", r.commit, r.rust, r.openbao),
            ),
            (
                "run",
                format!(
                    "{} on {}, {:.0} s; load before it {:.2}",
                    r.effort, r.began, r.seconds, r.load_before
                ),
            ),
        ] {
            writeln!(text, "* {what}: {value}").expect("text");
        }
        text.push_str(
            "\nClient and servers share the machine: read the ratios. Medians, with the lowest and highest round; a ratio is \
             taken round by round. How each peer is set up stands in tests/bench/README.md.\n",
        );
        self.budgets(&mut text);
        let mut area = "";
        for figure in &self.figures {
            if figure.area != area {
                area = &figure.area;
                head(&mut text, area, "what | figure | peer | ratio | budget | |");
            }
            let peer = figure.peer.as_ref();
            let beside = peer.map(|p| format!("{} {}", number(p.measured.median), p.name));
            let ratio = peer.map(|p| spread(p.ratio, "×"));
            let measured = figure.measured.map(|m| spread(m, &figure.unit));
            let note = figure.note.as_ref().map(|n| format!(" ({n})"));
            writeln!(
                text,
                "| {}{} | {} | {} | {} | {} | {} |",
                figure.name,
                note.unwrap_or_default(),
                measured.unwrap_or_default(),
                beside.unwrap_or_default(),
                ratio.unwrap_or_default(),
                budget(figure),
                verdict(figure)
            )
            .expect("text");
        }
        text
    }

    fn budgets(&self, text: &mut String) {
        head(text, "Budgets", "area | what | is | budget | |");
        for figure in self.figures.iter().filter(|f| f.budget.is_some()) {
            writeln!(
                text,
                "| {} | {}{} | {} | {} | {} |",
                figure.area,
                figure.name,
                figure
                    .peer
                    .as_ref()
                    .map(|p| format!(", beside {}", p.name))
                    .unwrap_or_default(),
                held(figure),
                budget(figure),
                verdict(figure)
            )
            .expect("text");
        }
    }
}

/// A figure on one line, printed while the bench runs.
pub(super) fn line(figure: &Figure) -> String {
    let measured = figure.measured.map(|m| spread(m, &figure.unit));
    let peer = figure.peer.as_ref();
    let peer = peer.map(|p| format!("; {} of {}", spread(p.ratio, "×"), p.name));
    format!(
        "{}: {}: {}{} {}",
        figure.area,
        figure.name,
        measured.unwrap_or_default(),
        peer.unwrap_or_default(),
        verdict(figure)
    )
}

fn head(text: &mut String, title: &str, columns: &str) {
    let rule = "--- | ".repeat(columns.matches('|').count());
    writeln!(text, "\n## {title}\n\n| {columns}\n| {}", rule.trim_end()).expect("text");
}

/// The value that its budget is for.
fn held(figure: &Figure) -> String {
    let value = match figure.budget.map(|b| b.of) {
        Some(Of::Ratio) => figure.ratio().map(|r| spread(r, "×")),
        _ => figure.measured.map(|m| spread(m, &figure.unit)),
    };
    let note = figure.note.clone().unwrap_or_default();
    value.unwrap_or(note)
}

fn budget(figure: &Figure) -> String {
    let Some(budget) = figure.budget else {
        return String::new();
    };
    let unit = match budget.of {
        Of::Figure => figure.unit.as_str(),
        Of::Ratio => "×",
    };
    match budget.limit {
        Limit::AtLeast(least) => format!("≥ {} {unit}", number(least)),
        Limit::AtMost(most) => format!("≤ {} {unit}", number(most)),
    }
}

fn verdict(figure: &Figure) -> &'static str {
    match figure.verdict {
        None => "",
        Some(Verdict::Pass) => "pass",
        Some(Verdict::Short) => "**short**",
        Some(Verdict::Open) => "open",
    }
}

fn spread(spread: Spread, unit: &str) -> String {
    let Spread { median, low, high } = spread;
    if low == high {
        format!("{} {unit}", number(median))
    } else {
        format!(
            "{} {unit} ({}–{})",
            number(median),
            number(low),
            number(high)
        )
    }
}

/// Three significant digits: a shared machine is not more precise.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 || size == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}
