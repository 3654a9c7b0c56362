"use strict";
(() => {
  const PAGE = 8;
  const byId = (id) => document.getElementById(id);
  const theme = byId("theme");
  if (theme) {
    const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
    theme.hidden = false;
    theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; name(); });
    name();
  }

  const list = byId("list");
  if (!list) return;
  const query = byId("query"), kind = byId("kind"), more = byId("more"), found = byId("found");
  let cards = [...list.children].map((card) => ({ card, text: card.textContent.toLowerCase(), kinds: card.dataset.kinds.split(" ") }));
  let shown = PAGE;
  for (const option of [...kind.options]) {
    if (option.value && !cards.some(({ kinds }) => kinds.includes(option.value))) option.remove();
  }

  const matching = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    return cards.filter(({ text, kinds }) => (!kind.value || kinds.includes(kind.value)) && words.every((word) => text.includes(word)));
  };
  const draw = () => {
    const hits = matching();
    const visible = new Set(hits.slice(0, shown));
    for (const entry of cards) entry.card.hidden = !visible.has(entry);
    more.hidden = hits.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, hits.length - shown)} more`;
    found.textContent = hits.length ? `${Math.min(shown, hits.length)} of ${hits.length}` : "nothing matches";
  };
  const restart = () => { shown = PAGE; draw(); };
  const shuffle = () => {
    for (let i = cards.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [cards[i], cards[j]] = [cards[j], cards[i]];
    }
    list.append(...cards.map(({ card }) => card));
    restart();
  };
  const step = (by) => {
    const hits = matching().map(({ card }) => card);
    if (!hits.length) return;
    const at = hits.indexOf(document.activeElement.closest(".sample"));
    const next = at < 0 ? 0 : Math.max(0, Math.min(hits.length - 1, at + by));
    if (next >= shown) { shown += PAGE; draw(); }
    hits[next].focus({ preventScroll: true, focusVisible: true });
    hits[next].scrollIntoView({ block: "center" });
  };

  query.addEventListener("input", restart);
  kind.addEventListener("change", restart);
  byId("shuffle").addEventListener("click", shuffle);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = matching()[shown];
    shown += PAGE;
    draw();
    if (first) first.card.focus({ preventScroll: true });
  });
  for (const [id, name, whenChecked] of [["show-ins", "no-ins", false], ["show-del", "with-del", true], ["show-wrong", "no-wrong", false], ["show-boxes", "no-boxes", false]]) {
    const box = byId(id);
    if (!box) continue;
    const apply = () => list.classList.toggle(name, box.checked === whenChecked);
    box.addEventListener("change", apply);
    apply();
  }
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input[type=search], select");
    if (event.key === "Escape" && typing) typing.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); query.focus(); }
    if (event.key === "r") shuffle();
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  });

  byId("tools").hidden = false;
  draw();
})();
