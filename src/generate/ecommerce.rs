//! A shop: users arrive, browse, buy, fail to pay and change plans.
//!
//! A user's first session begins with `user_signup`, which carries the plan; a change of plan is another one (now and
//! then one that changes nothing). One in twenty-five was a customer before the stream began, and so were those who are
//! in the middle of a session when it begins: their first sign-up is not in the stream. A session is a walk over pages,
//! with a pause of half a minute between two of them; some end in a purchase, some in a failed payment that may be tried
//! again. A few users come often, most seldom; nights are quiet. No two events happen in the same microsecond.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::clock::Clock;
use super::draft::Draft;
use super::names::Names;
use super::{Event, GenerateOptions, Truth, World, below, one_of, unit};
use crate::error::Result;
use crate::time::{DAY, MINUTE, SECOND};

pub(super) const NAMES: Names = Names {
    event_type: Some("event_type"),
    version: Some("schema_version"),
    time: "event_timestamp",
    entity: "user_id",
    text: "country",
    amount: "amount",
    count: Some("load_time_ms"),
    required: &["user_id", "idempotency_key", "event_timestamp", "country", "device_type"],
    wrong_type: &[("user_id", "12345"), ("country", "null"), ("ip_address", "[203,0,113,7]")],
    not_allowed: &[("device_type", "\"fridge\""), ("os", "\"fridge\""), ("browser", "\"fridge\"")],
    bad_format: &[
        ("event_timestamp", "\"17/12/2024 10:11:12\""),
        ("idempotency_key", "\"not-a-uuid\""),
        ("ip_address", "\"999.0.113.7\""),
        ("country", "\"Germany\""),
    ],
    several: ("country", [("user_id", "12345"), ("device_type", "\"fridge\"")]),
    no_objects: ["[\"page_view\",\"v1\"]", "\"page_view\"", "42", "null"],
};

/// Device type, operating system and browser: what `dim_device` holds, and nothing else occurs.
/// `python/penstock/pipelines/ecommerce/devices.csv` is the same list.
pub const DEVICES: [[&str; 3]; 16] = [
    ["desktop", "Windows", "Chrome"],
    ["desktop", "Windows", "Edge"],
    ["desktop", "Windows", "Firefox"],
    ["desktop", "macOS", "Safari"],
    ["desktop", "macOS", "Chrome"],
    ["desktop", "macOS", "Firefox"],
    ["desktop", "Linux", "Chrome"],
    ["desktop", "Linux", "Firefox"],
    ["mobile", "iOS", "Safari"],
    ["mobile", "iOS", "Chrome"],
    ["mobile", "Android", "Chrome"],
    ["mobile", "Android", "Samsung Internet"],
    ["mobile", "Android", "Firefox"],
    ["tablet", "iPadOS", "Safari"],
    ["tablet", "Android", "Chrome"],
    ["tablet", "Android", "Samsung Internet"],
];

/// The plans, from the cheapest.
pub const PLANS: [&str; 4] = ["free", "basic", "premium", "enterprise"];

const COUNTRIES: [(&str, &str, &str); 8] = [
    ("US", "USD", "en-US"),
    ("US", "USD", "en-US"),
    ("GB", "GBP", "en-GB"),
    ("DE", "EUR", "de"),
    ("FR", "EUR", "fr"),
    ("ES", "EUR", "es"),
    ("NL", "EUR", "nl"),
    ("IT", "EUR", "it"),
];
const CATEGORIES: [&str; 8] = ["books", "clothing", "electronics", "garden", "groceries", "home", "sports", "toys"];
const CHANNELS: [&str; 5] = ["organic", "ads", "referral", "email", "partner"];
const METHODS: [&str; 6] = ["card", "card", "card", "paypal", "bank_transfer", "gift_card"];
const FAILURES: [&str; 5] = ["card_declined", "insufficient_funds", "expired_card", "fraud_suspected", "network_error"];
const REFERRERS: [&str; 5] = [
    "https://www.google.com/search",
    "https://www.bing.com/search",
    "https://news.example.com/gifts",
    "https://social.example.net/feed",
    "https://mail.example.org/inbox",
];
const PRODUCTS: u32 = 5_000;
const PAUSE: i64 = 30 * SECOND;

#[derive(Clone, Copy, Default)]
struct User {
    device: u8,
    country: u8,
    plan: u8,
    /// The plan of the last good sign-up, plus one.
    told: u8,
    ready: bool,
    signed_up: bool,
    active: bool,
    network: u16,
    last: Option<std::num::NonZeroI64>,
    session: i64,
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    SignUp,
    Arrive,
    Browse,
    Product,
    Checkout,
    Pay,
    ChangePlan,
}

#[derive(Clone, Copy)]
struct Visit {
    user: u32,
    host: u8,
    step: Step,
    product: u32,
    attempts: u8,
    order: u64,
    /// The page that was looked at last.
    page: Option<Page>,
}

/// What the event that was made last would tell, if it is a good one.
struct Last {
    event_type: &'static str,
    user: u32,
    at: i64,
    plan: Option<u8>,
    paid: Option<(&'static str, u64)>,
}

/// The shop and everybody in it.
pub(super) struct Shop {
    users: Vec<User>,
    visits: Vec<Visit>,
    draft: Draft,
    key: String,
    clock: Clock,
    /// How many visits there are at once in this hour.
    crowd: usize,
    orders: u64,
    last: Last,
}

impl Shop {
    pub fn new(options: &GenerateOptions, rng: &mut ChaCha8Rng) -> Result<Self> {
        let last = Last { event_type: "", user: 0, at: 0, plan: None, paid: None };
        let mut shop = Self {
            users: vec![User::default(); options.users() as usize],
            visits: Vec::new(),
            draft: Draft::default(),
            key: String::new(),
            clock: Clock::new(options)?,
            crowd: 1,
            orders: 0,
            last,
        };
        shop.count_visits();
        while shop.visits.len() < shop.crowd {
            let user = shop.pick_user(rng);
            shop.meet(user, rng);
            shop.users[user as usize].signed_up = true;
            shop.enter(user, rng);
        }
        Ok(shop)
    }

    fn count_visits(&mut self) {
        self.crowd = ((PAUSE as f64 * self.clock.busy) as usize).clamp(1, (self.users.len() / 10).max(1));
    }

    /// Few users come often: the density falls with the root of the rank.
    fn pick_user(&self, rng: &mut ChaCha8Rng) -> u32 {
        let n = self.users.len();
        let mut user = 0;
        for _ in 0..8 {
            let u = unit(rng);
            user = ((u * u * n as f64) as usize).min(n - 1);
            if !self.users[user].active {
                break;
            }
        }
        user as u32
    }

    fn meet(&mut self, user: u32, rng: &mut ChaCha8Rng) {
        let there = &mut self.users[user as usize];
        if there.ready {
            return;
        }
        let draw = rng.next_u64();
        *there = User {
            device: (draw % 16) as u8,
            country: (draw >> 8) as u8 % 8,
            // Half are free, few are enterprise.
            plan: [0, 0, 0, 0, 1, 1, 2, 3][(draw >> 16) as usize % 8],
            ready: true,
            signed_up: (draw >> 24).is_multiple_of(25),
            network: (draw >> 32) as u16,
            ..*there
        };
    }

    fn enter(&mut self, user: u32, rng: &mut ChaCha8Rng) {
        let there = &mut self.users[user as usize];
        let step = if there.signed_up { Step::Arrive } else { Step::SignUp };
        there.active = true;
        there.signed_up = true;
        let host = rng.next_u32() as u8;
        self.visits.push(Visit { user, host, step, product: 0, attempts: 0, order: 0, page: None });
    }

    /// Writes the event of a visit's step and says whether the visit goes on.
    fn step(&mut self, place: usize, rng: &mut ChaCha8Rng) -> bool {
        let mut visit = self.visits[place];
        let user = self.users[visit.user as usize];
        let chance = below(rng, 1_000);
        let (stays, next) = match visit.step {
            Step::SignUp => {
                self.sign_up(&visit, user.plan, rng);
                (true, Step::Browse)
            }
            Step::ChangePlan => {
                // One in ten confirms the plan that it has.
                let plan = if chance < 100 { user.plan } else { (user.plan + 1 + below(rng, 3) as u8) % 4 };
                self.users[visit.user as usize].plan = plan;
                self.sign_up(&visit, plan, rng);
                (chance.is_multiple_of(2), Step::Browse)
            }
            Step::Arrive | Step::Browse => {
                let category = one_of(rng, &CATEGORIES);
                let page = match chance % 10 {
                    _ if visit.step == Step::Arrive && chance < 600 => Page::Plain("/"),
                    0 => Page::Plain("/"),
                    1 => Page::Plain("/deals"),
                    2 => Page::Search(category),
                    _ => Page::Category(category),
                };
                self.page_view(&mut visit, page, rng);
                let next = match below(rng, 1_000) {
                    0..5 => Step::ChangePlan,
                    5..620 => Step::Product,
                    _ => Step::Browse,
                };
                (chance >= 100 || next == Step::ChangePlan, next)
            }
            Step::Product => {
                let u = unit(rng);
                visit.product = (u * u * f64::from(PRODUCTS)) as u32;
                let page = Page::Product(visit.product);
                self.page_view(&mut visit, page, rng);
                (
                    chance >= 130,
                    if chance >= 870 { Step::Checkout } else { one_of(rng, &[Step::Product, Step::Browse]) },
                )
            }
            Step::Checkout => {
                self.page_view(&mut visit, Page::Plain("/checkout"), rng);
                self.orders += 1;
                visit.order = self.orders;
                visit.attempts = 0;
                (chance >= 200, Step::Pay)
            }
            Step::Pay => {
                visit.attempts += 1;
                let paid = chance >= 150;
                self.payment(&visit, paid, rng);
                match (paid, visit.attempts) {
                    (true, _) => (chance.is_multiple_of(3), Step::Browse),
                    (false, 1..3) => (!chance.is_multiple_of(3), Step::Pay),
                    (false, _) => (false, Step::Browse),
                }
            }
        };
        visit.step = next;
        self.visits[place] = visit;
        stays
    }

    /// What every event has.
    fn begin(&mut self, event_type: &'static str, visit: &Visit, rng: &mut ChaCha8Rng) -> User {
        use std::fmt::Write;
        let user = self.users[visit.user as usize];
        self.last = Last { event_type, user: visit.user, at: self.clock.now, plan: None, paid: None };
        self.key.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.key, "user_{:06}", visit.user);
        let [device, os, browser] = DEVICES[usize::from(user.device)];
        let draft = &mut self.draft;
        draft.clear();
        draft.text("event_type", event_type);
        draft.text("schema_version", "v1");
        draft.uuid("idempotency_key", u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()));
        draft.text("user_id", &self.key);
        draft.time("event_timestamp", self.clock.now);
        draft.text("device_type", device);
        draft.text("os", os);
        draft.text("browser", browser);
        draft.text("country", COUNTRIES[usize::from(user.country)].0);
        // Addresses of RFC 2544, which belong to nobody.
        let [high, low] = user.network.to_be_bytes();
        draft.ipv4("ip_address", [198, 18 | (high & 1), low, visit.host]);
        user
    }

    fn sign_up(&mut self, visit: &Visit, plan: u8, rng: &mut ChaCha8Rng) {
        let user = self.begin("user_signup", visit, rng);
        let draw = rng.next_u32();
        self.draft.text("plan_type", PLANS[usize::from(plan)]);
        self.draft.text("signup_channel", CHANNELS[draw as usize % CHANNELS.len()]);
        self.draft.text("language", COUNTRIES[usize::from(user.country)].2);
        self.draft.json("marketing_consent", if draw >> 31 == 0 { "true" } else { "false" });
        self.last.plan = Some(plan);
    }

    fn page_view(&mut self, visit: &mut Visit, page: Page, rng: &mut ChaCha8Rng) {
        self.begin("page_view", visit, rng);
        let draw = rng.next_u64();
        let draft = &mut self.draft;
        page.write(draft, "page", "");
        match (visit.page.replace(page), draw as usize % 8) {
            (Some(before), _) => before.write(draft, "referrer", "https://www.penstock-outfitters.example.com"),
            (None, 5..) => draft.json("referrer", "null"),
            (None, i) => draft.text("referrer", REFERRERS[i]),
        }
        draft.number("load_time_ms", 40 + (draw >> 8) % 400 + (draw >> 24) % 400);
        // Properties that the contract does not name are kept, not refused.
        if (draw >> 40).is_multiple_of(50) {
            draft.text("experiment", if draw >> 63 == 0 { "checkout-a" } else { "checkout-b" });
        }
    }

    fn payment(&mut self, visit: &Visit, paid: bool, rng: &mut ChaCha8Rng) {
        let user = self.begin(if paid { "purchase" } else { "payment_failed" }, visit, rng);
        let draw = rng.next_u64();
        let currency = COUNTRIES[usize::from(user.country)].1;
        // The price and the category of a product never change.
        let price = 199 + u64::from(visit.product.wrapping_mul(2_654_435_761) >> 8) % 24_800;
        let quantity = [1, 1, 1, 1, 1, 2, 2, 3][draw as usize % 8];
        let cents = price * quantity;
        let draft = &mut self.draft;
        draft.numbered("order_id", &["ord_"], visit.order, 9);
        draft.numbered("product_id", &["prod_"], u64::from(visit.product), 5);
        if paid {
            draft.text("product_category", CATEGORIES[visit.product as usize % CATEGORIES.len()]);
            draft.number("quantity", quantity);
        }
        draft.money("amount", cents);
        draft.text("currency", currency);
        draft.text("payment_method", METHODS[(draw >> 8) as usize % METHODS.len()]);
        if paid {
            self.last.paid = Some((currency, cents));
        } else {
            draft.text("failure_reason", FAILURES[(draw >> 16) as usize % FAILURES.len()]);
            draft.number("attempt", u64::from(visit.attempts));
        }
    }
}

impl World for Shop {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Event<'_> {
        if self.clock.pass(rng) {
            self.count_visits();
        }
        let place = if self.visits.len() < self.crowd {
            let user = self.pick_user(rng);
            self.meet(user, rng);
            self.enter(user, rng);
            self.visits.len() - 1
        } else {
            below(rng, self.visits.len() as u32) as usize
        };
        let stays = self.step(place, rng);
        if !stays {
            let visit = self.visits.swap_remove(place);
            self.users[visit.user as usize].active = false;
        }
        let (at, may_be_late) = (self.clock.now, self.last.event_type == "page_view");
        Event { draft: &mut self.draft, key: &self.key, at, arrives: at, may_be_late }
    }

    fn happened(&mut self, at: i64) {
        self.last.at = at;
    }

    fn accepted(&mut self, truth: &mut Truth) {
        let last = &self.last;
        let user = &mut self.users[last.user as usize];
        truth.good(last.event_type, last.at);
        if user.last.is_none() {
            truth.users += 1;
        }
        let fresh =
            user.last.is_none_or(|before| last.at - before.get() > 30 * MINUTE) || last.at - user.session >= DAY;
        if fresh {
            truth.sessions += 1;
            user.session = last.at;
        }
        user.last = std::num::NonZeroI64::new(last.at);
        if let Some((currency, cents)) = last.paid {
            truth.paid(currency, cents);
        }
        if let Some(plan) = last.plan {
            match user.told {
                0 => truth.users_signed_up += 1,
                told if told != plan + 1 => truth.plan_changes += 1,
                _ => {}
            }
            user.told = plan + 1;
            truth.plan_rows = truth.users_signed_up + truth.plan_changes;
        }
    }
}

/// A look at the front page.
pub(super) fn heartbeat(rng: &mut ChaCha8Rng, at: i64, visitor: u32, line: &mut Vec<u8>) -> String {
    let key = format!("heartbeat_{visitor:06}");
    let [device, os, browser] = DEVICES[0];
    let mut draft = Draft::default();
    draft.text("event_type", "page_view");
    draft.text("schema_version", "v1");
    draft.uuid("idempotency_key", u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()));
    draft.text("user_id", &key);
    draft.time("event_timestamp", at);
    draft.text("device_type", device);
    draft.text("os", os);
    draft.text("browser", browser);
    draft.text("country", COUNTRIES[0].0);
    draft.ipv4("ip_address", [198, 18, 0, 1]);
    draft.text("page", "/");
    draft.json("referrer", "null");
    draft.number("load_time_ms", 100);
    draft.render(line);
    key
}

#[derive(Clone, Copy)]
enum Page {
    Plain(&'static str),
    Category(&'static str),
    Search(&'static str),
    Product(u32),
}

impl Page {
    fn write(self, draft: &mut Draft, name: &'static str, host: &str) {
        match self {
            Page::Plain(path) => draft.text_of(name, &[host, path]),
            Page::Category(category) => draft.text_of(name, &[host, "/category/", category]),
            Page::Search(word) => draft.text_of(name, &[host, "/search?q=", word]),
            Page::Product(number) => draft.numbered(name, &[host, "/product/"], u64::from(number), 5),
        }
    }
}
