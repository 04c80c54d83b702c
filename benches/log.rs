//! How fast a log goes through its pipeline: `cargo bench -p gitlab-runner-api --bench log`. Compare within one run only.
//!
//! Masking is held against `memchr` over the same bytes, which is as fast as looking at each byte gets, and against the
//! crate `masker`.

use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher};
use gitlab_runner_api::api::info::Info;
use gitlab_runner_api::log::{LogLimit, LogOptions, Masker, Masks, Timestamps};
use gitlab_runner_api::{Assignment, Job, Machine, Output, Retain, RunnerConfig, Secret, Server, Stream, Timestamp};
use http::Response;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SIZE: usize = 64 << 20;
const PIECE: usize = 64 << 10;
const COUNTS: [usize; 4] = [0, 1, 20, 500];
const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

fn main() {
    divan::main();
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    fn text(&mut self, length: usize) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..length).map(|_| char::from(ALPHABET[self.next() % ALPHABET.len()])).collect()
    }
}

/// From 8 bytes, which is the least GitLab takes, to 40.
fn secrets(count: usize) -> Vec<String> {
    let mut numbers = Numbers(7);
    (0..count).map(|number| numbers.text(8 + number * 7 % 33)).collect()
}

/// What compilers and package managers print, with one of twenty secrets in each mebibyte.
static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    let (mut numbers, known) = (Numbers(1), secrets(20));
    let mut text = String::with_capacity(SIZE + 256);
    let mut megabytes = 0;
    while text.len() < SIZE {
        let number = numbers.next();
        text.push_str(&match number % 5 {
            0 => format!("   Compiling regex-automata v0.{}.{} (registry)\n", number % 9, number % 17),
            1 => format!(
                "[{}/2048] Building CXX object src/CMakeFiles/engine.dir/module_{number}.cpp.o\n",
                number % 2048
            ),
            2 => format!(
                "npm http fetch GET 200 https://registry.example.test/package-{number} {}ms (cache hit)\n",
                number % 900
            ),
            3 => format!("test storage::tests::reads_what_was_written_{number} ... ok\n"),
            _ => format!(
                "warning: unused variable: `global_{number}` in function `handle_request` at line {}\n",
                number % 999
            ),
        });
        if text.len() >> 20 > megabytes {
            megabytes += 1;
            text.push_str(&known[megabytes % known.len()]);
        }
    }
    text.truncate(SIZE);
    text.into()
});

static BASE64: LazyLock<Bytes> = LazyLock::new(|| Numbers(2).text(SIZE).into());

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Base64,
}

impl Kind {
    fn bytes(self) -> &'static Bytes {
        match self {
            Self::Text => &TEXT,
            Self::Base64 => &BASE64,
        }
    }
}

fn cases() -> impl Iterator<Item = (Kind, usize)> {
    [Kind::Text, Kind::Base64].into_iter().flat_map(|kind| COUNTS.map(|count| (kind, count)))
}

fn masks(count: usize) -> Masks {
    Masks::new(&secrets(count).into_iter().map(Secret::new).collect::<Vec<_>>())
}

fn pieces(text: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..text.len()).step_by(PIECE).map(|at| text.slice(at..(at + PIECE).min(text.len())))
}

fn mask(masks: &Arc<Masks>, text: &Bytes) -> usize {
    let (mut masker, mut size) = (Masker::new(masks.clone()), 0);
    let mut count = |bytes: Bytes| size += black_box(bytes).len();
    pieces(text).for_each(|piece| masker.push(piece, &mut count));
    masker.end(&mut count);
    size
}

#[divan::bench(args = cases(), sample_count = 5, sample_size = 1)]
fn masking(bencher: Bencher<'_, '_>, (kind, count): (Kind, usize)) {
    let (text, masks) = (kind.bytes(), Arc::new(masks(count)));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| mask(&masks, text));
}

#[divan::bench(args = [Kind::Text, Kind::Base64], sample_count = 5, sample_size = 1)]
fn memchr_of_the_same(bencher: Bencher<'_, '_>, kind: Kind) {
    let text = kind.bytes();
    bencher.counter(BytesCount::new(text.len())).bench_local(|| memchr::memchr(b'\0', black_box(text)));
}

#[divan::bench(args = [Kind::Text, Kind::Base64], sample_count = 5, sample_size = 1)]
fn memcpy_of_the_same(bencher: Bencher<'_, '_>, kind: Kind) {
    let (text, mut copy) = (kind.bytes(), vec![0; SIZE]);
    bencher.counter(BytesCount::new(text.len())).bench_local(|| copy.copy_from_slice(black_box(text)));
}

#[divan::bench(args = cases().filter(|(_, count)| *count > 0), sample_count = 2, sample_size = 1)]
fn crate_masker(bencher: Bencher<'_, '_>, (kind, count): (Kind, usize)) {
    let (text, masker) = (kind.bytes(), masker::Masker::new(&secrets(count), "[MASKED]"));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| masker.mask_slice(text));
}

/// The worst there is: every byte ends an occurrence.
#[divan::bench(args = [(8, 4096), (64, 4096), (64, 256)], sample_count = 5, sample_size = 1)]
fn a_secret_of_a_in_a_text_of_a(bencher: Bencher<'_, '_>, (mebibytes, length): (usize, usize)) {
    let text = Bytes::from(vec![b'a'; mebibytes << 20]);
    let masks = Arc::new(Masks::new(&[Secret::new("a".repeat(length))]));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| mask(&masks, &text));
}

/// Texts that make a search by places compare much: over the first, all beginnings of one secret; over the others, a long secret.
#[derive(Clone, Copy, Debug)]
enum Worst {
    /// All beginnings of one secret, in a text that repeats it.
    Beginnings,
    /// Secrets each of which ends as the next one begins, in a text of them all.
    Overlapping,
    /// A secret of 10,000 `a` and a `b`, in a text of `a`.
    NearlyThere,
    /// A secret of 10,000 `a`, in a text with another byte after each 9,999.
    NeverThere,
}

#[divan::bench(
    args = [Worst::Beginnings, Worst::Overlapping, Worst::NearlyThere, Worst::NeverThere],
    sample_count = 3,
    sample_size = 1
)]
fn the_worst_texts(bencher: Bencher<'_, '_>, worst: Worst) {
    const SIZE: usize = 8 << 20;
    let a = |count: usize| "a".repeat(count);
    let (secrets, pattern): (Vec<String>, String) = match worst {
        Worst::Beginnings => ((8..400).map(a).collect(), a(1000)),
        Worst::Overlapping => {
            let part = |number: usize| format!("{:04}", number * 7919 % 10_000);
            ((0..100).map(|number| part(number) + &part(number + 1)).collect(), (0..101).map(part).collect())
        }
        Worst::NearlyThere => (vec![a(10_000) + "b"], a(1000)),
        Worst::NeverThere => (vec![a(10_000)], a(9_999) + "b"),
    };
    let text = Bytes::from(pattern.repeat(SIZE / pattern.len()));
    let masks = Arc::new(Masks::new(&secrets.into_iter().map(Secret::new).collect::<Vec<_>>()));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| mask(&masks, &text));
}

fn config(timestamps: Timestamps) -> Arc<RunnerConfig> {
    let server = Server::parse("https://gitlab.example.test").expect("a valid address");
    let options = LogOptions::default().with_limit(LogLimit::None).with_timestamps(timestamps);
    let config = RunnerConfig::new(server, Info::new("bench", "1")).with_log(options);
    Arc::new(config.with_retain(Retain::Unacknowledged))
}

fn assignment(count: usize) -> Assignment {
    let variable = |value: &String| format!(r#"{{"key":"K","value":"{value}","masked":true,"raw":true}}"#);
    let variables: Vec<String> = secrets(count).iter().map(variable).collect();
    let payload = format!(r#"{{"id":7,"token":"t","variables":[{}]}}"#, variables.join(","));
    Assignment::from_json(payload).expect("a valid payload")
}

fn write_all(config: &Arc<RunnerConfig>, assignment: &Assignment, text: &Bytes) -> Job {
    let mut job = Job::new(config.clone(), assignment, NOW);
    pieces(text).for_each(|piece| _ = job.write_at(Stream::Stdout, piece, NOW));
    job
}

/// All stages, checksum and keeping included.
#[divan::bench(args = cases(), sample_count = 5, sample_size = 1)]
fn whole_pipeline(bencher: Bencher<'_, '_>, (kind, count): (Kind, usize)) {
    let (text, config, assignment) = (kind.bytes(), config(Timestamps::Off), assignment(count));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| write_all(&config, &assignment, text));
}

#[divan::bench(args = [Kind::Text, Kind::Base64], sample_count = 5, sample_size = 1)]
fn whole_pipeline_with_timestamps(bencher: Bencher<'_, '_>, kind: Kind) {
    let (text, config, assignment) = (kind.bytes(), config(Timestamps::On), assignment(20));
    bencher.counter(BytesCount::new(text.len())).bench_local(|| write_all(&config, &assignment, text));
}

/// The same with a secret count that is usual, on a block that was just written and is still in the processor's cache, without a
/// match. In the bench above, all of the text comes from memory.
#[divan::bench(args = [1, 20, 60], sample_count = 20)]
fn masking_in_the_cache(bencher: Bencher<'_, '_>, count: usize) {
    let (block, masks) = (block(), Arc::new(masks(count)));
    let mut masker = Masker::new(masks);
    bencher.counter(BytesCount::new(block.len())).bench_local(|| {
        let mut size = 0;
        masker.push(block.clone(), &mut |bytes| size += black_box(bytes).len());
        size
    });
}

#[divan::bench(sample_count = 20)]
fn memchr_in_the_cache(bencher: Bencher<'_, '_>) {
    let block = block();
    bencher.counter(BytesCount::new(block.len())).bench_local(|| memchr::memchr(b'\0', black_box(&block)));
}

/// The beginning of the text, before the first secret.
fn block() -> Bytes {
    TEXT.slice(..32 << 10)
}

fn answer(job: &mut Job, status: u16) {
    loop {
        match job.poll(NOW) {
            Output::Send(call) => {
                let (_, ticket) = call.split();
                let response = Response::builder().status(status).body(()).expect("a status");
                return job.handle_response(ticket, response, NOW).expect("its own ticket");
            }
            Output::Event(_) => {}
            Output::Wait(_) | Output::Done => unreachable!("there is something to send"),
        }
    }
}

/// A job of 64 MiB with the usual twenty secrets, written in lines of 128 bytes or in larger pieces, and sent by the mebibyte. The
/// driver has no network.
#[divan::bench(args = [128, 4 << 10, 64 << 10], sample_count = 3, sample_size = 1)]
fn a_job_of_64_mebibytes(bencher: Bencher<'_, '_>, piece: usize) {
    let (config, assignment) = (config(Timestamps::Off), assignment(20));
    bencher.counter(BytesCount::new(TEXT.len())).bench_local(|| {
        let mut job = Job::new(config.clone(), &assignment, NOW);
        answer(&mut job, 200);
        let mut unsent = 0;
        for piece in TEXT.chunks(piece) {
            job.copy_to(Stream::Stdout, piece);
            unsent += piece.len();
            if unsent >= 2 << 20 {
                answer(&mut job, 202);
                unsent -= 1 << 20;
            }
        }
        job
    });
}

/// The least that a client without masking does with such a log: it copies each byte and counts its checksum.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn copy_and_checksum_of_64_mebibytes(bencher: Bencher<'_, '_>) {
    let mut block = vec![0; PIECE];
    bencher.counter(BytesCount::new(TEXT.len())).bench_local(|| {
        let mut hasher = crc32fast::Hasher::new();
        for piece in TEXT.chunks(PIECE) {
            let block = &mut block[..piece.len()];
            block.copy_from_slice(piece);
            hasher.update(black_box(block));
        }
        hasher.finalize()
    });
}

/// What masking costs before the first byte.
#[divan::bench(args = COUNTS)]
fn prepare_masks(bencher: Bencher<'_, '_>, count: usize) {
    let secrets: Vec<Secret> = secrets(count).into_iter().map(Secret::new).collect();
    bencher.bench_local(|| Masks::new(&secrets));
}

#[divan::bench(args = COUNTS)]
fn take_a_job_up(bencher: Bencher<'_, '_>, count: usize) {
    let (config, assignment) = (config(Timestamps::Off), assignment(count));
    bencher.bench_local(|| Job::new(config.clone(), &assignment, NOW));
}
