// Dark or light: what the system says, until the button is pressed. Runs before the page is drawn, so that it never flashes.
"use strict";
(() => {
  const KEY = "vila2-theme";
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* it holds until the page is left */ } };
  const wish = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (wish.matches ? "dark" : "light")) === "dark";
  const before = stored();
  if (before === "dark" || before === "light") root.dataset.theme = before;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      store(root.dataset.theme);
      name();
    });
    wish.addEventListener("change", name);
    button.hidden = false;
    name();
  });
})();
