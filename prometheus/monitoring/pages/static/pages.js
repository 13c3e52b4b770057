"use strict";
// What a page does by itself: light or dark, whose clocks its times are of, and its countdowns.
(() => {
  const root = document.documentElement;
  const kept = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const keep = (key, value) => { try { localStorage.setItem(key, value); } catch { /* then not */ } };

  const themes = ["light", "dark"];
  // At once, before anything is drawn in the other colours.
  if (themes.includes(kept("theme"))) root.dataset.theme = kept("theme");
  const isDark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  const clocks = ["utc", "exchange", "local"];
  const asked = new URLSearchParams(location.search).get("times");
  let times = [asked, kept("times")].find((each) => clocks.includes(each)) ?? "utc";
  const formats = new Map();
  const format = (zone, form) => {
    const key = `${zone} ${form}`;
    if (!formats.has(key)) {
      const date = form === "time" ? {} : form === "clock" ? { second: "2-digit" } : form === "day" ? { month: "2-digit", day: "2-digit" } : { year: "numeric", month: "2-digit", day: "2-digit", second: "2-digit" };
      const options = { ...date, hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone };
      formats.set(key, new Intl.DateTimeFormat("sv-SE", options));
    }
    return formats.get(key);
  };
  const local = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const zoneOf = (element) =>
    times === "local" ? local : times === "exchange" ? (element.dataset.zone ?? "UTC") : "UTC";

  const lengthOf = (seconds) => {
    const all = Math.max(0, Math.round(seconds));
    const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (all >= 3600) return `${hours} h ${minutes} min`;
    return all >= 60 ? `${minutes} min ${all % 60} s` : `${all} s`;
  };

  let shownAt = Date.now();
  const writeTimes = () => {
    for (const each of document.querySelectorAll("[data-at]")) {
      const zone = zoneOf(each);
      const text = format(zone, each.dataset.form).format(new Date(each.dataset.at));
      if (each.textContent !== text) each.textContent = text;
      if (each.tagName === "TIME") each.title = `${text} ${zone}`;
    }
    const zone = document.querySelector(".standing .zone");
    if (zone) zone.textContent = times === "local" ? local : "UTC";
    for (const each of document.querySelectorAll("[data-times]")) {
      each.setAttribute("aria-pressed", String(each.dataset.times === times));
    }
  };
  const countDown = () => {
    const clock = document.getElementById("clock");
    if (!clock) return;
    const passed = (Date.now() - shownAt) * Number(clock.dataset.speed);
    const now = Date.parse(clock.dataset.marketAt) + passed;
    for (const each of document.querySelectorAll("[data-until]")) {
      each.textContent = lengthOf((Date.parse(each.dataset.until) - now) / 1000);
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.times) {
      times = button.dataset.times;
      keep("times", times);
      const url = new URL(location.href);
      url.searchParams.set("times", times);
      history.replaceState(null, "", url);
      writeTimes();
    } else if (button && "themeSwitch" in button.dataset) {
      root.dataset.theme = isDark() ? "light" : "dark";
      keep("theme", root.dataset.theme);
    } else if (button && "signOut" in button.dataset) {
      signOut().catch((error) => alert(`You are still signed in. ${error.message}`));
    } else if (button?.dataset.do) {
      openAction(button);
    } else if (button && "close" in button.dataset) {
      button.closest("dialog").close();
    }
  });

  const signIn = async (form) => {
    const asked = Object.fromEntries(new FormData(form));
    const told = form.querySelector("[role=alert]");
    told.hidden = true;
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(document.body.dataset.session, { method: "POST", headers, body: JSON.stringify(asked) });
      if (answer.ok) return location.assign(document.body.dataset.top);
      told.textContent = (await answer.json()).detail;
    } catch {
      told.textContent = "The server is not heard.";
    }
    told.hidden = false;
  };
  // What changes something says that it is from a page of ours.
  const send = async (url, method, body, more) => {
    const who = await (await fetch(document.body.dataset.session)).json();
    const headers = { "Content-Type": "application/json", "X-CSRF-Token": who.csrf_token ?? "", ...more };
    return fetch(url, { method, headers, body });
  };

  const signOut = async () => {
    const answer = await send(document.body.dataset.session, "DELETE");
    if (!answer.ok && answer.status !== 401) throw new Error((await answer.json()).detail);
    location.assign(document.body.dataset.signInPage);
  };
  // What a button does is told and asked for in one dialog, which no change of the page takes away.
  let opening = 0;

  const openAction = (button) => {
    const dialog = document.getElementById("action");
    const form = dialog.querySelector("form");
    const asks = button.dataset.asks.split(" ");
    const mine = ++opening;
    const doIt = form.querySelector("[type=submit]");
    form.reset();
    // Who presses twice has not read it.
    doIt.disabled = true;
    setTimeout(() => { if (mine === opening) doIt.disabled = false; }, 500);
    for (const label of form.querySelectorAll("[data-field]")) {
      label.hidden = !asks.includes(label.dataset.field);
      label.querySelector("input").disabled = label.hidden; // and so neither required nor sent
    }
    form.dataset.url = button.dataset.do;
    form.dataset.body = button.dataset.body;
    form.dataset.group = button.parentElement.getAttribute("aria-label");
    document.getElementById("action-name").textContent = `${button.textContent}: ${form.dataset.group}`;
    document.getElementById("action-told").textContent = button.dataset.told;
    doIt.textContent = button.textContent;
    form.querySelector("[role=alert]").hidden = true;
    dialog.showModal();
    // Enter alone then does nothing, but where something has to be written first.
    dialog.querySelector("input:enabled[name=reason], [data-close]").focus();
  };

  document.addEventListener("keydown", (event) => {
    if (event.repeat && event.key === "Enter" && event.target.closest("dialog, [data-do]")) event.preventDefault();
  });

  const bodyOf = (form) => {
    const body = JSON.parse(form.dataset.body);
    for (const input of form.querySelectorAll("input:enabled")) {
      if (input.type === "checkbox") body[input.name] = input.checked;
      else if (input.value.trim()) body[input.name] = input.value.trim();
    }
    return JSON.stringify(body);
  };

  const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (each) => each.toString(16).padStart(2, "0")).join("");

  // What was asked and not answered -> its key: the same again, whenever on this page, is done once.
  const unanswered = new Map();
  let lastGroup = null;

  const act = async (form) => {
    const [url, body, group, mine] = [form.dataset.url, bodyOf(form), form.dataset.group, opening];
    const name = document.getElementById("action-name").textContent;
    const dialog = form.closest("dialog");
    const isOpen = () => dialog.open && mine === opening;
    const told = form.querySelector("[role=alert]");
    const button = form.querySelector("[type=submit]");
    const asked = `${url} ${body}`;
    const key = unanswered.get(asked) ?? newKey();
    unanswered.set(asked, key);
    told.hidden = button.disabled = true;
    let words = "The server is not heard, so it is not known whether it was done. To press again does it once.";
    try {
      const answer = await send(url, "POST", body, { "Idempotency-Key": key });
      const reply = await answer.json();
      unanswered.delete(asked);
      if (answer.ok) {
        if (isOpen()) dialog.close();
        lastGroup = group;
        return tell(wordsOf(name, reply, answer.headers.has("Idempotency-Replayed")));
      }
      words = reply.detail;
    } catch { /* as above */ }
    if (!isOpen()) return tell(`${name}: ${words}`);
    told.textContent = words;
    told.hidden = button.disabled = false;
  };

  const wordsOf = (name, reply, before) => {
    const jobs = (reply.jobs ?? []).map((each) => each.job ?? each);
    return `Done by ${reply.actor}${before ? ", when it was asked before and no answer was heard" : ""}. `
      + `${name}${jobs.length ? ` (${jobs.join(", ")})` : ""}.`
      + (reply.scheduler ? "" : " No scheduler is at work: nothing follows until one is.");
  };

  const tell = (words) => {
    const done = document.getElementById("done");
    done.textContent = words;
    done.hidden = false;
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if ("signIn" in form.dataset) signIn(form);
    else if ("action" in form.dataset) act(form);
    else return;
    event.preventDefault();
  });

  // A page is fresh while it has what the server has; it asks for itself again when it has not.
  let freshAt = Date.now();
  const shownVersion = () => document.getElementById("live")?.dataset.version;
  const listen = () => {
    const stream = new EventSource(document.body.dataset.events);
    stream.addEventListener("seen", (event) => {
      if (event.data === shownVersion()) {
        freshAt = Date.now();
      } else {
        for (const each of document.querySelectorAll("[data-live]")) each.dispatchEvent(new Event("changed"));
      }
    });
    stream.addEventListener("error", () => {
      // After a refusal the browser does not try again by itself.
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
    });
  };
  const tellAge = () => {
    const age = Math.round((Date.now() - freshAt) / 1000);
    const stale = document.getElementById("stale");
    stale.hidden = age <= 5;
    if (!stale.hidden) stale.textContent = `Data ${lengthOf(age)} old: the server is not heard.`;
  };
  document.addEventListener("htmx:after:swap", (event) => {
    if (event.target.id === "live") freshAt = shownAt = Date.now();
    // The button that was pressed may have become another, and whoever pressed it goes on from there.
    if (lastGroup && document.activeElement === document.body) {
      document.querySelector(`.buttons[aria-label="${CSS.escape(lastGroup)}"] button`)?.focus();
      lastGroup = null;
    }
    writeTimes();
    countDown();
  });
  document.addEventListener("DOMContentLoaded", () => {
    writeTimes();
    countDown();
    setInterval(countDown, 1000);
    if (!document.getElementById("live")) return;
    listen();
    setInterval(tellAge, 1000);
    // What grows old without a change: leases, and how long something has waited.
    const ageing = () => document.querySelectorAll("[data-ages]");
    setInterval(() => { if (!document.hidden) for (const each of ageing()) each.dispatchEvent(new Event("changed")); }, 2000);
  });
})();
