// What the page does in the browser beside what htmx does: times in the reader's zone, what is looked at again when something
// happened, previews in a dialog, and saying so when the daemon is away. Without it the page works all the same, by links
// and forms; nothing here asks or changes anything that a link or a form could not.
"use strict";
(() => {
  const root = document.documentElement;
  // The page's language, as this reader writes times in it: en-GB where the page is in English.
  const own = navigator.languages.find((one) => one.split("-")[0] === root.lang.split("-")[0]);
  const language = own || root.lang || undefined;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const text = (name) => document.body.dataset[name] || "";

  // ---- Times ----
  const full = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
  const minute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const hour = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
  const day = new Intl.DateTimeFormat(language, { weekday: "short", day: "numeric", month: "short" });

  const span = (seconds) => {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    const m = Math.floor(s / 60);
    if (m < 60) return `${m}:${String(s % 60).padStart(2, "0")} min`;
    const h = Math.floor(m / 60);
    if (h < 48) return `${h}:${String(m % 60).padStart(2, "0")} h`;
    return `${Math.floor(h / 24)} d`;
  };

  // A number of seconds by which this machine's clock is before the daemon's.
  const behind = (Date.parse(document.body.dataset.now || "") - Date.now()) / 1000 || 0;
  const now = () => Date.now() + behind * 1000;

  const tell = (node) => {
    const at = Date.parse(node.dateTime);
    if (Number.isNaN(at)) return;
    const date = new Date(at);
    const said = {
      left: () => (at > now() ? span((at - now()) / 1000) : text("over")),
      since: () => span((now() - at) / 1000),
      clock: () => clock.format(date),
      day: () => `${day.format(date)} ${hour.format(date)}`,
      hour: () => hour.format(date),
      full: () => full.format(date),
    }[node.dataset.as];
    const words = said ? said() : minute.format(date);
    if (node.textContent !== words) node.textContent = words;
    if (!node.title) node.title = full.format(date);
  };
  const tellAll = (within) => within.querySelectorAll("time[datetime]").forEach(tell);
  setInterval(() => {
    if (!document.hidden) document.querySelectorAll("time[data-as=left], time[data-as=since]").forEach(tell);
  }, 1000);

  // Forms say in which zone their times are, and offer times of that zone.
  const inputs = (within) => {
    within.querySelectorAll("input[name=zone]").forEach((input) => { input.value = zone; });
    within.querySelectorAll("[data-zone]").forEach((node) => { node.textContent = zone; });
  };

  // ---- Live: what a view shows is asked for again when one of its topics is told ----
  // Of what is told many times in a moment the first counts at once and the last once more.
  const waiting = new WeakMap();
  const refresh = (node) => {
    const pause = Number(node.dataset.pause || 250);
    const state = waiting.get(node) || { until: 0, timer: 0 };
    waiting.set(node, state);
    if (state.timer) return;
    const go = () => {
      state.timer = 0;
      state.until = Date.now() + pause;
      if (node.isConnected) htmx.trigger(node, "live");
    };
    const rest = state.until - Date.now();
    if (rest <= 0) go();
    else state.timer = setTimeout(go, rest);
  };
  const told = (topics) => {
    document.querySelectorAll("[data-live]").forEach((node) => {
      const wanted = node.dataset.live.split(" ");
      if (topics.includes("all") || topics.some((topic) => wanted.includes(topic))) refresh(node);
    });
  };

  let stream = null;
  let again = 0;
  let wait = 500;
  const banner = () => document.getElementById("away");
  const away = (is) => {
    const node = banner();
    if (node && node.hidden === is) {
      node.hidden = !is;
      node.textContent = is ? text("away") : "";
    }
  };
  let lost = false;
  const open = () => {
    clearTimeout(again);
    if (stream || document.hidden || !document.querySelector("[data-live]")) return;
    stream = new EventSource("/live");
    stream.addEventListener("open", () => {
      wait = 500;
      again = 0;
      away(false);
      // What happened between this view and the stream was told to nobody.
      told(["all"]);
      lost = false;
    });
    stream.addEventListener("message", (event) => told(event.data.split(" ")));
    stream.addEventListener("error", () => {
      // The browser would ask again by itself, at the same pace for ever; here it is slower each time, and said.
      shut();
      // A stream also ends when what one may has changed: that it fails twice says more. What is asked for anew then leads to
      // where one signs in, if that is what it takes.
      if (lost) {
        away(true);
        const one = document.querySelector("[data-live]");
        if (one) refresh(one);
      }
      lost = true;
      again = setTimeout(open, wait);
      // Not all at the same moment, when a daemon is back that many look at.
      wait = Math.min(wait * 2, 10000) * (0.75 + Math.random() / 2);
    });
  };
  const shut = () => {
    clearTimeout(again);
    if (stream) stream.close();
    stream = null;
  };
  // A page that nobody looks at keeps no connection: a browser has only few of them for one place.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      shut();
      lost = true;
    } else {
      open();
    }
  });
  addEventListener("pagehide", shut);
  addEventListener("pageshow", (event) => { if (event.persisted) { lost = true; open(); } });

  // ---- Views that look again by themselves now and then, because nothing tells of what they show ----
  setInterval(() => {
    if (document.hidden) return;
    document.querySelectorAll("[data-every]").forEach((node) => {
      const due = Number(node.dataset.due || 0);
      if (!due) node.dataset.due = String(Date.now() + Number(node.dataset.every) * 1000);
      else if (Date.now() >= due) {
        node.dataset.due = String(Date.now() + Number(node.dataset.every) * 1000);
        refresh(node);
      }
    });
  }, 1000);

  // ---- Dialogs: a link that leads to a preview shows it here ----
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    const dialog = document.getElementById("dialog");
    if (link && dialog && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      const body = document.getElementById("dialog-body");
      body.replaceChildren();
      const whole = () => { location.href = link.href; };
      htmx.ajax("GET", link.getAttribute("href"),
        { target: body, select: "#preview", swap: "innerHTML ignoreTitle:true" })
        .then(() => {
          if (!body.querySelector("#preview")) whole();
          else if (!dialog.open) dialog.showModal();
        }, whole);
    }
    const copy = event.target.closest("button[data-copy]");
    if (copy) {
      const from = document.getElementById(copy.dataset.copy);
      navigator.clipboard.writeText(from.textContent.trim()).then(
        () => { copy.textContent = text("copied"); },
        () => { getSelection().selectAllChildren(from); },
      );
    }
    if (event.target.closest("[data-close]") && dialog && dialog.open) {
      event.preventDefault();
      dialog.close();
    }
  });

  // The pause is between what was shown and what is asked for next, however long asking takes.
  document.addEventListener("htmx:afterRequest", (event) => {
    const node = event.detail.elt;
    const state = node && waiting.get(node);
    if (state) state.until = Date.now() + Number(node.dataset.pause || 250);
  });

  // ---- htmx ----
  // A part that is looked at again leaves alone what its reader has changed in it: what is chosen in a form, what is folded out,
  // how to connect.
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) =>
    !(old instanceof Element && old.matches("[data-keep]"));
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
    !(name === "open" && node.tagName === "DETAILS");
  // An answer that is no such view leaves what is shown; that it is gone, or nobody's to see any more, is shown whole.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target } = event.detail;
    if (xhr.status < 400) return;
    if (target.dataset.live !== undefined) {
      event.detail.shouldSwap = false;
      if (xhr.status === 403 || xhr.status === 404) location.reload();
    } else if (target.id === "connection") {
      event.detail.shouldSwap = true;
    }
  });
  document.addEventListener("htmx:afterSwap", () => tellAll(document));
  document.addEventListener("htmx:load", (event) => {
    tellAll(event.detail.elt);
    inputs(event.detail.elt);
  });
  document.addEventListener("htmx:afterSettle", () => tellAll(document));
  // Only what leads nowhere else is taken in: an answer that sends to another page, such as to sign in, is followed.
  document.addEventListener("htmx:sendError", () => away(true));
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.successful) away(!!again && lost);
  });
  document.addEventListener("DOMContentLoaded", () => {
    tellAll(document);
    inputs(document);
    document.body.dataset.ready = "yes";
    open();
  });
})();
